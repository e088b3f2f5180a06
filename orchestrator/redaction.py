"""Secrets out of words: passwords of URIs, and what the environment calls a password, a token or a key."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_CREDENTIALS = re.compile(r"://[^/\s\"'<>]*@")
_PASSWORD = re.compile(r"://[^/\s\"'<>@]*:[^/\s\"'<>]*@")
_NAMES = re.compile(
    r"(?:^|_)(?:(?:PG)?PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS|API_?KEY|ACCESS_KEY(?:_ID)?)$", re.I
)
_SHORTEST = 8
"""Characters of a secret: a shorter word may stand anywhere and means nothing by itself."""


def redacted(text: str) -> str:
    """The text with `***` for `user:password` of every URI in it, and for every secret of the environment."""
    text = _CREDENTIALS.sub(f"://{HIDDEN}@", text)
    for value in secrets_of(os.environ).values():
        text = text.replace(value, HIDDEN)
    return text


def secret_in(text: str) -> str | None:
    """What kind of secret a text holds, in words that do not tell it; None where there is none."""
    if _PASSWORD.search(text):
        return "the password of a URI"
    return next((f"the value of {name}" for name, value in secrets_of(os.environ).items() if value in text), None)


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Variable -> secret, the longest first: one may begin like another."""
    found = {name: value for name, value in environment.items() if _NAMES.search(name) and len(value) >= _SHORTEST}
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


class LogFormatter(logging.Formatter):
    """A line of a log file, with time, level and origin, without secrets; tracebacks too."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return redacted(super().format(record))
