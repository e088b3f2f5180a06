"""The command line: verbs and options, examples, exit codes, and bad input through the real thing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import orchestrator.config
from orchestrator.cli import EPILOG, app, main
from orchestrator.config import SweepConfig, load_sweep
from orchestrator.problems import ConfigError, Problem, RunFailed
from orchestrator.single import load_trial
from orchestrator.tracking.uri import TrackingError
from tests.commands import GROUP, PROGRAM, parse_command
from tests.sweeps import info_of
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.presets import PRESETS

OPTIONS = {
    "run": {"FILE", "--set", "--output"},
    "plan": {"FILE", "--set", "--output"},
    "rehearse": {"FILE", "--curves", "--repeats", "--gpus", "--strategies", "--set", "--output"},
    "compare": {"RUN_FOLDER...", "--to"},
    "presets": set(),
    "trial": {"FILE", "--set", "--preset", "--folder", "--pdb"},
    "evaluate": {"--model", "--benchmark", "--metrics", "--retain-log", "--target-log", "--set", "--to"},
    "import": {"FILE", "--to", "--format"},
    "export": {"RUN_FOLDER", "--pick", "--to", "--merge"},
    "resume": {"RUN_FOLDER", "--trials", "--set"},
    "report": {"RUN_FOLDER"},
    "sync": {"RUN_FOLDER"},
    "ui": {"DIR", "--host", "--port"},
    "submit": {"FILE", "--output", "--address", "--set", "--name", "--detach"},
    "status": {"ID", "--address"},
    "logs": {"ID", "--address", "--follow"},
    "stop": {"ID", "--address"},
    "doctor": {"FILE", "--output", "--address", "--set"},
}
"""Arguments and options of each verb: scripts rest on them, so a change here is a change of the version."""

HEAVY = ("torch", "transformers", "ray", "optuna", "mlflow", "datasets")
REAL = f"""
import atexit, sys
atexit.register(lambda: print("imported:", *(set({HEAVY!r}) & set(sys.modules))))
from orchestrator.cli import main
main()
"""


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose name has all that breaks careless code."""
    folder = tmp_path / 'it\'s a "füll" & $HOME [b] 日本'
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def real(place: Path, *args: str, **environment: str) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and the heavy packages imported, of the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", REAL, *args],
        cwd=place,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "200"} | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )
    said, _, imported = done.stdout.rpartition("imported:")
    return done.returncode, said + done.stderr, imported.split()


def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line in this process."""
    monkeypatch.setattr(sys, "argv", [PROGRAM, *args])
    with pytest.raises(SystemExit, match=r"\d*") as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def run_folder(place: Path, sweep: SweepConfig) -> Path:
    """A run folder of a sweep with a ledger, as after a first trial."""
    benchmark = load_benchmark(sweep.trial.benchmark)
    data, model = sweep.digests(benchmark)
    folder = place / "runs" / sweep.name
    folder.mkdir(parents=True)
    info = info_of(
        sweep, fingerprint=sweep.fingerprint(benchmark), data=data, model=model, tracking_uri="sqlite:///mlflow.db"
    )
    (folder / "sweep.json").write_text(info.model_dump_json(), encoding="utf-8")
    (folder / "ledger.jsonl").write_text('{"event": "anchor", "name": "target", "metrics": {}}\n')
    (folder / "trials.jsonl").write_text("")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -- bad input, through the real command line --------------------------------------------------------------------------


def test_every_problem_of_a_file_is_told_at_once_within_a_moment(place: Path) -> None:
    wrong = {
        "name": "wrong",
        "trial": {"epochs": "x", "optim": {"lrr": 1}},
        "objectives": {"retain.extraction_strenght": "max"},
        "space": {"optim.lr": {"float": [0, 99]}},
        "baselines": ["wgaa"],
        "tracking": {"uri": "http://127.0.0.1:1"},
    }
    (place / "my sweep.yaml").write_text(yaml.safe_dump(wrong), encoding="utf-8")
    code, said, imported = real(place, "run", "my sweep.yaml")
    assert (code, imported) == (2, [])
    assert said.splitlines()[0] == "my sweep.yaml: 7 problems"
    assert len(said.splitlines()) == 8, "one line a problem, and no traceback"
    for word in (
        "trial.epochs: 'x' must be",
        "did you mean 'lr'",
        "'retain.extraction_strength'",
        "did you mean 'wga'",
    ):
        assert word in said
    assert list(place.iterdir()) == [place / "my sweep.yaml"], "nothing is left behind"


BAD: list[tuple[list[str], str]] = [
    (["run", "smok"], r"^smok: 1 problem\n  no such file; did you mean 'smoke'\?$"),
    (["run", "smoke", "--set", "trial.loss.criterion.beta1=-1"], "beta1: -1 must be greater than or equal to 0"),
    (["plan", "smoke", "--set", "tracking.uri=http://127.0.0.1:1"], "tracking.uri: .* does not answer .*; start it"),
    (["trial", "tofu_tiny", "--set", "trial.benchmark.path=gone/"], "trial.benchmark.path: .*'gone/' is not a folder"),
    (
        ["evaluate", "--model", "gone", "--benchmark", "authors"],
        "^evaluate: 1 problem\n  --model: 'gone' is not a folder",
    ),
    (["evaluate", "--model", ".", "--benchmark", "tofuu"], "--benchmark: 'tofuu' is no benchmark and no file; did you"),
    (["evaluate", "--benchmark", "tofu"], "Missing option '--model'"),
    (["import", "nope.sh"], "^nope.sh: 1 problem\n  No such file or directory; name a sweep of another tool"),
    (["export", "runs/nope", "--to", "out"], "not a run folder: no sweep.json in it"),
    (["export", "runs/nope"], "Missing option '--to'"),
    (["resume", "runs/nope"], "^runs/nope: 1 problem\n  not a run folder: no sweep.json in it"),
    (["report", "runs/nope"], "not a run folder: no sweep.json in it"),
    (["sync", "runs/nope"], "not a run folder: no sweep.json in it"),
    (["ui", "nope"], "^nope: 1 problem\n  not a folder; give the folder of run folders"),
    (["runn", "smoke"], r"No such command 'runn'. Did you mean 'run'\?"),
    (["plan", "smoke", "--sett", "a=b"], "No such option: --sett .*--set"),
]


@pytest.mark.parametrize(("args", "message"), BAD, ids=[" ".join(args) for args, _ in BAD])
def test_bad_input_ends_with_2_and_without_traceback_or_heavy_imports(
    args: list[str], message: str, place: Path
) -> None:
    code, said, imported = real(place, *args)
    assert (code, imported) == (2, [])
    assert re.search(message, said.strip(), re.MULTILINE), said
    assert "Traceback" not in said
    assert list(place.iterdir()) == [], "nothing is left behind"


def test_the_run_folder_of_another_sweep_is_refused_and_left_as_it_was(place: Path) -> None:
    smoke, _ = load_sweep("smoke", ["trial.epochs=6"], output=place / "runs")
    before = contents(run_folder(place, smoke))
    code, said, imported = real(place, "run", "smoke")
    assert (code, imported) == (2, [])
    assert "trial.epochs: 8 here, 6 in the sweep that lies there" in said
    assert "this makes it another sweep: give `name` another value, or --output another folder" in said
    assert "Traceback" not in said
    assert contents(place / "runs" / "smoke") == before


def test_a_resumption_may_not_make_it_another_sweep(place: Path) -> None:
    smoke, _ = load_sweep("smoke", output=place / "runs")
    before = contents(run_folder(place, smoke))
    code, said, imported = real(place, "resume", "runs/smoke", "--trials", "40", "--set", "trial.epochs=6")
    assert (code, imported) == (2, [])
    assert "trial.epochs: 6 here, 8 in the sweep that lies there" in said
    assert "this makes it another sweep: give `name` another value" in said
    assert "Traceback" not in said
    assert contents(place / "runs" / "smoke") == before


def test_a_resumption_with_settings_is_the_sweep_with_these_settings_and_notes_them(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import orchestrator.progress

    smoke, _ = load_sweep("smoke", output=place / "runs")
    (run_folder(place, smoke) / "sweep.yaml").write_text("name: smoke\n")
    seen: dict[str, Any] = {}

    def runs(sweep: SweepConfig, benchmark: Any, *, output: Path, source: str) -> None:
        seen.update(trials=sweep.budget.trials, output=output, source=source)

    monkeypatch.setitem(sys.modules, "orchestrator.sweep", SimpleNamespace(run_sweep=runs))  # the real one takes Ray
    monkeypatch.setattr(orchestrator.progress, "show_outcome", lambda outcome: 0)
    code, _, err = here(monkeypatch, capsys, "resume", "runs/smoke", "--trials", "40", "--set", "budget.hours=2")
    assert (code, err) == (0, "")
    assert seen == {
        "trials": 40,
        "output": (place / "runs").resolve(),
        "source": "name: smoke\n# resume --set budget.hours=2\n# resume --set budget.trials=40\n",
    }


@pytest.mark.parametrize("verb", ["run", "resume", "report", "sync"])
def test_a_run_folder_that_cannot_be_read_is_told_and_left_as_it_was(
    verb: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke, _ = load_sweep("smoke", output=place / "runs")
    folder = run_folder(place, smoke)
    (folder / "sweep.json").write_text('{"name": "smo')
    before = contents(folder)
    code, out, err = here(monkeypatch, capsys, verb, "smoke" if verb == "run" else "runs/smoke")
    assert code == 2
    assert ("was not written by this version" if verb == "run" else "is damaged; `unlearn-sweep run` with its") in err
    assert out == ""
    assert contents(folder) == before


def test_a_server_named_in_the_environment_is_checked_before_anything_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    code, _, err = here(monkeypatch, capsys, "run", "smoke")
    assert code == 2
    assert re.search("MLFLOW_TRACKING_URI: tracking server .* does not answer", err)
    assert list(place.iterdir()) == []


# -- exit codes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ConfigError("a.yaml", [Problem("x", "is wrong")]), 2, "a.yaml: 1 problem\n  x: is wrong\n"),
        (TrackingError("the store is gone; make it"), 2, "the store is gone; make it\n"),
        (RunFailed("Ray ended"), 1, "failed: Ray ended\n"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_each_way_to_end_has_its_exit_code(
    raised: BaseException,
    code: int,
    said: str | None,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise raised

    monkeypatch.setattr(orchestrator.config, "load_sweep", fails)
    ended, _, err = here(monkeypatch, capsys, "plan", "smoke")
    assert ended == code
    assert said is None or err == said
    assert "Traceback" not in err


def test_a_plan_of_the_demo_ends_with_0(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = here(monkeypatch, capsys, "plan", "smoke")
    assert (code, err) == (0, "")
    assert "epochs: 224 at most, about 128 expected" in out
    assert list(place.iterdir()) == [], "a plan writes nothing"


def test_a_plan_and_the_version_need_no_heavy_imports(place: Path) -> None:
    code, said, imported = real(place, "plan", "smoke", "--set", "budget.trials=100")
    assert (code, imported) == (0, [])
    assert "100 trials" in said


def test_published_settings_are_listed_a_line_each_without_heavy_imports(place: Path) -> None:
    code, said, imported = real(place, "presets")
    assert (code, imported) == (0, [])
    assert [line.partition("\t")[0] for line in said.splitlines()] == list(PRESETS)


def test_the_help_says_every_exit_code() -> None:
    said = CliRunner().invoke(app, ["--help"], terminal_width=200).output
    assert " ".join(said.split()).count(EPILOG) == 1
    assert re.findall(r"\b\d+\b", EPILOG) == ["0", "1", "2", "3", "130"]


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).output == f"unlearn-sweep {version('unlearn-sweep')}\n"


# -- verbs, options, examples ------------------------------------------------------------------------------------------


def test_verbs_and_options_are_those_that_scripts_rest_on() -> None:
    found = {
        verb: {p.metavar if p.param_type_name == "argument" else p.opts[0] for p in command.params}
        for verb, command in GROUP.commands.items()
    }
    assert found == OPTIONS


def test_every_verb_option_and_argument_has_a_help_text() -> None:
    for verb, command in GROUP.commands.items():
        assert command.help, verb
        for parameter in command.params:
            assert parameter.help, (verb, parameter.name)


def examples(verb: str) -> list[str]:
    """The command lines between backticks in a verb's help."""
    return re.findall(rf"`((?:[A-Z_]+=\S+ )?{PROGRAM} [^`]*)`", GROUP.commands[verb].help)


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_help_of_each_verb_shows_an_example_of_it_that_parses(verb: str) -> None:
    shown = " ".join(CliRunner().invoke(app, [verb, "--help"], terminal_width=500).output.split())
    assert examples(verb)
    for line in examples(verb):
        assert line in shown
        assert parse_command(line)[0] == verb
    with pytest.raises(Exception, match="No such option: --nope"):
        parse_command(f"{PROGRAM} {verb} x --nope")


def prepare(place: Path) -> None:
    """What the examples name: a folder of TOFU's rows, and a recorded trial."""
    (place / "tofu").mkdir()
    for name, count in (("forget01", 40), ("retain99", 400)):
        lines = [json.dumps({"question": f"{name} {i}?", "answer": f"{i}."}) for i in range(count)]
        (place / "tofu" / f"{name}.jsonl").write_text("\n".join(lines))
    trial = place / "runs" / "smoke" / "trials" / "00007" / "trial.json"
    trial.parent.mkdir(parents=True)
    trial.write_text(TrialConfig().model_dump_json())


@pytest.mark.parametrize("line", [line for verb in ("run", "plan", "trial") for line in examples(verb)])
def test_the_examples_name_sweeps_trials_and_settings_that_exist(line: str, place: Path) -> None:
    prepare(place)
    verb, params = parse_command(line)
    if verb == "trial":
        config = load_trial(params["file"], params["settings"] or [], params["preset"])
        assert config.epochs in (2, 8)
    else:
        sweep, benchmark = load_sweep(params["file"], params["settings"] or [], output=params["output"])
        assert benchmark is not None
        assert sweep.budget.trials in (16, 28, 100)


def test_the_example_of_plan_can_be_pasted(place: Path) -> None:
    (line,) = examples("plan")
    code, said, _ = real(place, *line.split()[1:])
    assert code == 0
    assert "100 trials" in said
