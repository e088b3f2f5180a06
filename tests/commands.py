"""Command lines in help texts and documents, read as the real command line reads them."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer

from orchestrator.cli import app

PROGRAM = "unlearn-sweep"
GROUP: Any = typer.main.get_command(app)


def parse_command(line: str) -> tuple[str, dict[str, Any]]:
    """Verb and parameters of a line such as `NAME=value unlearn-sweep run smoke`; the verb is empty for `--help`.

    Raises:
        Exception: Typer's, for a verb, option or argument that does not exist.
    """
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    assert words[0].rpartition("/")[2] == PROGRAM, line
    if words[1:2] in (["--help"], ["-h"], ["--version"]):
        return "", {}
    verb, *rest = words[1:]
    command = GROUP.get_command(None, verb)
    assert command is not None, f"{verb!r} is not a verb, in: {line}"
    if "--help" in rest or "-h" in rest:
        return verb, {}
    return verb, command.make_context(verb, rest).params
