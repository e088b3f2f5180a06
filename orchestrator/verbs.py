"""The command of `unlearn-sweep`, and what its verbs have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Exit codes: 0 ok, 1 the sweep failed, 2 bad input, 3 finished with failed trials, 130 interrupted."

app = typer.Typer(
    help="Find the loss weighting that makes a language model forget what it must and keep what it should.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[str, typer.Argument(help="sweep file, or the name of a shipped one", metavar="FILE")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="a setting over the file's, as in trial.epochs=5", metavar="PATH=VALUE"),
]


def _output(text: str | Path) -> Path:
    from orchestrator.remote import output_of

    return output_of(str(text))


def _folder(text: str | Path) -> Path:
    from orchestrator.remote import folder_of

    return folder_of(str(text))


Output = Annotated[
    Path, typer.Option("--output", parser=_output, help="folder of run folders, or URL, as in s3://..", metavar="DIR")
]
Folder = Annotated[
    Path, typer.Argument(parser=_folder, help="run folder, as in runs/smoke, or its URL", metavar="RUN_FOLDER")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"unlearn-sweep {version('unlearn-sweep')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
