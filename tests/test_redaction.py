"""Secrets out of words: of URIs, and of the environment."""

from __future__ import annotations

import logging
import sys

import pytest

from orchestrator.events import Ended
from orchestrator.redaction import LogFormatter, redacted, secret_in, secrets_of


@pytest.mark.parametrize(
    "name",
    [
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN", "WANDB_API_KEY"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "my_secret", "PGPASSWORD"),
    ],
)
def test_what_the_environment_keeps_secret_is_hidden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0123456789abcdef")
    assert redacted("401 for key 0123456789abcdef!") == "401 for key ***!"
    assert secret_in("0123456789abcdef") == f"the value of {name}"


def test_what_only_looks_like_a_secret_stays() -> None:
    plain = {"TOKENIZERS_PARALLELISM": "false false", "RAY_AUTH_TOKEN_PATH": "/etc/ray/token", "HF_TOKEN": "short"}
    assert secrets_of(plain) == {}


def test_a_secret_that_begins_like_another_one_is_hidden_whole() -> None:
    assert list(secrets_of({"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefghijkl"})) == ["B_TOKEN", "A_TOKEN"]


def test_a_name_in_a_uri_is_hidden_and_may_be_set_but_a_password_may_not() -> None:
    assert redacted("postgresql://me@host/db") == "postgresql://***@host/db"
    assert secret_in("postgresql://me@host/db") is None
    assert secret_in("postgresql://me:x@host/db") == "the password of a URI"


def test_a_failure_is_written_down_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    ended = Ended(trial_id="00000", state="FAIL", epoch=0, failure="401 at https://u:p@hub with hf_abcdefgh")
    assert ended.failure == "401 at https://***@hub with ***"


def test_a_traceback_in_a_log_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tttttttttt")
    try:
        raise RuntimeError("refused tttttttttt")
    except RuntimeError:
        record = logging.LogRecord("ray", logging.ERROR, "", 0, "at %s", ("http://a:b@c",), sys.exc_info())
    line = LogFormatter().format(record)
    assert "refused ***" in line
    assert "http://***@c" in line
    assert "tttttttttt" not in line
