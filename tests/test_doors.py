"""What gets in and what gets out: names that become paths, what is bound to which address, secrets, code from data."""

from __future__ import annotations

import ast
import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Suggested
from orchestrator.ledger import Ledger
from orchestrator.tracking.ui import address_of, warning_of
from orchestrator.tracking.uri import TrackingError
from tests.runs import Cli
from tests.sweeps import small_sweep
from tests.test_architecture import ROOT, modules
from trials.config import TrialConfig
from trials.reading import BenchmarkError, read_records

# -- names that become paths -------------------------------------------------------------------------------------------

OUTWARD = [
    "..",
    "../x",
    "/x",
    "a/b",
    "",
    ".",
    ".hidden",
    "-x",
    "a\nb",
    "a\0b",
    "a b",
    "a\\b",
    "~",
    "$HOME",
    "ü",
    "a" * 101,
]


@pytest.mark.parametrize("name", OUTWARD)
def test_the_name_of_a_sweep_is_a_plain_word(name: str) -> None:
    with pytest.raises(ValidationError):
        SweepConfig.model_validate({"name": name})


@pytest.mark.parametrize("name", [*OUTWARD, "00001/../../x", "", "\u0660" * 5])
def test_the_name_of_a_trial_is_a_plain_word(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Ended(trial_id=name, state="FAIL", epoch=0)
    with pytest.raises(ValidationError):
        Suggested(trial_id=name, number=0, label=None, params={}, config={}, fingerprint="f", seed=0)


def test_a_ledger_with_a_trial_that_leads_out_of_the_folder_touches_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "precious" / "checkpoint").mkdir(parents=True)
    folder = tmp_path / "run"
    folder.mkdir()
    event = Ended(trial_id="00000", state="FAIL", epoch=0).model_dump_json().replace("00000", "../../precious")
    (folder / "ledger.jsonl").write_text(f"{event}\n")
    ledger = Ledger(folder)
    assert ledger.events == []
    ledger.close()
    assert (tmp_path / "precious" / "checkpoint").is_dir()


@pytest.mark.parametrize("name", ["../secret.jsonl", "a/../../secret.jsonl"])
def test_a_file_of_a_benchmark_lies_in_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    with gzip.open(tmp_path / "secret.jsonl.gz", "wt") as file:
        file.write("{}\n")
    for label in (name, str(tmp_path / "secret.jsonl")):
        with pytest.raises(BenchmarkError, match=r"leads out of .*; name a file in it"):
            read_records(tmp_path / "inside", label, field="split")


def test_a_label_of_a_published_setting_is_one_of_those_known() -> None:
    with pytest.raises(ValidationError, match=r"preset '\.\./\.\./x' is not known"):
        TrialConfig.model_validate({"loss": {"preset": "../../x"}})


# -- what is bound to which address ------------------------------------------------------------------------------------


def test_the_ui_is_on_this_machine_unless_told_otherwise_and_then_says_what_is_open() -> None:
    assert address_of("127.0.0.1", 5000) == address_of("0.0.0.0", 5000) == "http://127.0.0.1:5000"
    assert address_of("::", 1) == "http://[::1]:1"
    said = warning_of("0.0.0.0", 5000)
    assert said.startswith("warning: bound to 0.0.0.0: whoever reaches port 5000 of this machine can read, change and")
    assert said.endswith("ssh -L 5000:127.0.0.1:5000")


def test_a_host_that_is_no_address_is_told(tmp_path: Path) -> None:
    from orchestrator.tracking.ui import serve_ui
    from tests.sweeps import write_info

    (tmp_path / "a").mkdir()
    write_info(tmp_path / "a", name="a", benchmark="b")
    with pytest.raises(TrackingError, match=r"--host 'everywhere' is not an IP address; write 127.0.0.1, 0.0.0.0 or"):
        serve_ui(tmp_path, 5000, "everywhere")


# -- code from data ----------------------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[str, ast.Call]]:
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{name}:{node.lineno} {ast.unparse(node.func)}", node


def option(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


UNSAFE = {"eval", "exec", "compile", "__import__", "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unsafe(called: str) -> bool:
    """Whether a call makes code or objects out of bytes or text; `re.compile` and a model's `eval()` do not."""
    words = called.split(".")
    return words[0] in UNSAFE or called in ("os.system", "os.popen", "torch.hub.load", "numpy.load", "np.load")


def test_nothing_makes_code_or_objects_out_of_data() -> None:
    found = list(calls())
    assert len(found) > 1000
    assert [where for where, _ in found if unsafe(where.split()[1])] == []
    loads = [call for where, call in found if where.endswith("torch.load")]
    assert all(option(call, "weights_only") == "True" for call in loads)
    shells = [where for where, call in found if option(call, "shell") not in (None, "False")]
    assert shells == []


def test_yaml_is_read_by_safe_loaders_only() -> None:
    readers = {where.split()[1] for where, _ in calls() if where.split()[1].startswith("yaml.")}
    assert {"yaml.safe_load"} <= {name for name in readers if re.search(r"\bload|_load", name)} <= {"yaml.safe_load"}


def test_no_model_brings_code_of_its_own() -> None:
    loaders = [
        (where, call)
        for where, call in calls()
        if where.endswith(".from_pretrained") and where.split()[1].startswith("Auto")
    ]
    assert loaders
    assert [where for where, call in loaders if option(call, "trust_remote_code") != "False"] == []


@pytest.mark.parametrize("called", ["pickle.loads", "eval", "exec", "os.system", "np.load", "cloudpickle.load"])
def test_the_rule_knows_what_is_unsafe(called: str) -> None:
    assert unsafe(called)
    assert not unsafe("re.compile")


# -- secrets -----------------------------------------------------------------------------------------------------------

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "mlpass-Zq81xk",
    "MLFLOW_TRACKING_TOKEN": "mltoken-Zq82xk",
    "HF_TOKEN": "hf_Zq83xkaaaa",
    "AWS_ACCESS_KEY_ID": "AKIAZq84xk",
    "AWS_SECRET_ACCESS_KEY": "awssecret-Zq85xk",
    "AWS_SESSION_TOKEN": "awssession-Zq86xk",
    "WANDB_API_KEY": "wandb-Zq87xkaa",
}
NEEDLES = [*SECRETS.values(), "uripass-Zq88xk"]
LEAKY = """
import os, sys
from pathlib import Path
from orchestrator.config import load_sweep
from orchestrator.sweep import run_sweep
from tests.leaky import leaky
from tests.sweeps import small_sweep
from trials.benchmarks import load_benchmark
sweep = small_sweep(budget={"trials": 5, "concurrent": 1})
run_sweep(sweep, load_benchmark(sweep.trial.benchmark), output=Path("runs"), source=sys.argv[1], trial=leaky)
"""


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_no_secret_is_written_or_said_anywhere(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    store = tmp_path / "runs" / "mlflow.db"
    source = f"# token {SECRETS['HF_TOKEN']}, store postgresql://me:uripass-Zq88xk@host/db\nname: small\n"
    done = subprocess.run(
        [sys.executable, "-c", LEAKY.replace("sys.argv[1]", "os.environ['SOURCE']")],
        cwd=tmp_path,
        env=os.environ
        | SECRETS
        | {"PYTHONPATH": str(ROOT), "SOURCE": source, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"},
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "runs" / "small"
    assert "***" in (folder / "sweep.yaml").read_text("utf-8")
    assert "***" in (folder / "ledger.jsonl").read_text("utf-8")
    assert "***" in (folder / "trials" / "00001" / "log.txt").read_text("utf-8")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert store in files
    assert any(path.name == "report.html" for path in files)
    texts = {str(path): path.read_bytes() for path in files} | {"out": (done.stdout + done.stderr).encode()}
    assert [(place, needle) for place, text in texts.items() for needle in NEEDLES if needle.encode() in text] == []


def test_a_password_in_the_environments_uri_is_not_recorded_and_its_want_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.events import SweepInfo
    from orchestrator.folder import open_folder
    from orchestrator.tracking.uri import check_reachable, uri_of
    from trials.benchmarks import load_benchmark

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:uripass-Zq88xk@127.0.0.1:1/db")
    sweep = small_sweep()
    open_folder(tmp_path / "small", sweep, load_benchmark(sweep.trial.benchmark), "").close()
    assert SweepInfo.read(tmp_path / "small").tracking_uri == "postgresql://***@127.0.0.1:1/db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    said = check_reachable(uri_of(tmp_path / "small"))
    assert said is not None
    assert said.endswith("was not written down; set MLFLOW_TRACKING_URI to the whole of it")


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    code, out, err = cli("plan", "smoke", "--set", f"description=by {SECRETS['HF_TOKEN']}")
    assert (code, out) == (2, "")
    assert "description: holds the value of HF_TOKEN" in err
    assert SECRETS["HF_TOKEN"] not in err
