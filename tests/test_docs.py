"""README and docs against the code: commands, settings, targets, links, exit codes, sources, and nobody's machine."""

from __future__ import annotations

import re
import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from orchestrator.checks import check_sweep
from orchestrator.cli import EPILOG
from orchestrator.config import SweepConfig
from orchestrator.problems import models_in, read_yaml, shipped
from orchestrator.reference.metrics_page import page
from orchestrator.reference.sweep_file import reference
from tests.commands import GROUP, PROGRAM, parse_command
from trials.config import TrialConfig
from trials.objectives import Forget
from trials.presets import PRESETS

ROOT = Path(__file__).parents[1]
DOCS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return FENCE.findall(text)


def command_lines(text: str) -> Iterator[str]:
    """Lines of our program in fenced blocks, without prompt and path, continued lines joined, pipes cut off."""
    for _, block in blocks(text):
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            for part in re.split(r"\s(?:&&|\|\|?|;|>>?|2>&1)\s", f"{line} "):
                part = re.sub(r"^\s*[$>]\s+", "", part).strip().removesuffix(" &")
                if re.match(rf"(?:[A-Z_]+=\S+\s+)*(?:\S*/)?{PROGRAM}(?:\s|$)", part):
                    yield part


COMMANDS = [(name_of(file), line) for file in DOCS for line in command_lines(file.read_text("utf-8"))]


def test_the_documents_that_are_looked_at_are_there() -> None:
    assert ROOT / "README.md" in DOCS
    assert len(COMMANDS) >= 4


def test_commands_are_found_in_blocks_however_they_are_written() -> None:
    text = (
        "```\n$ cd\n$ .venv/bin/unlearn-sweep run y \\\n  --set a=b && X=1 unlearn-sweep ui &\n```\n`unlearn-sweep x`"
    )
    assert list(command_lines(text)) == [".venv/bin/unlearn-sweep run y --set a=b", "X=1 unlearn-sweep ui"]


@pytest.mark.parametrize(("file", "line"), COMMANDS)
def test_every_command_parses_and_its_sweep_and_settings_exist(file: str, line: str) -> None:
    verb, params = parse_command(line)
    sweep = params.get("file", "")
    if "search_spaces/" in sweep:
        assert (ROOT / sweep).is_file(), f"{sweep} of {file} does not exist"
    elif sweep and not sweep.endswith((".yaml", ".yml", ".json")):
        assert sweep in shipped(), f"{file} runs {sweep!r}, which is not shipped"
    if Path(sweep).stem in shipped():  # of other files we have the settings only where they are in the text
        raw = read_yaml(sweep, params["settings"] or [])
        assert SweepConfig.model_validate(raw).name
    assert params.get("preset") in {None, *PRESETS}
    assert verb == "" or verb in GROUP.commands


def test_every_verb_named_in_the_text_exists() -> None:
    for file in DOCS:
        for verb in re.findall(rf"`{PROGRAM} ([a-z]+)", file.read_text("utf-8")):
            assert verb in GROUP.commands, f"{name_of(file)} names {verb!r}"


SWEEPS = [
    (name_of(file), block)
    for file in DOCS
    for language, block in blocks(file.read_text("utf-8"))
    if language == "yaml" and re.search(r"^name:", block, re.MULTILINE)
]


@pytest.mark.parametrize(("file", "block"), SWEEPS)
def test_every_sweep_file_in_the_text_checks_but_for_data_and_models_of_the_reader(
    file: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "block.yaml").write_text(block, encoding="utf-8")
    config = SweepConfig.model_validate(read_yaml(str(tmp_path / "block.yaml")))
    problems = check_sweep(config, tmp_path)[1]
    theirs = ("trial.benchmark.path", "trial.model.path", "trial.model.retain_path", "tracking.uri")
    assert [problem for problem in problems if problem.path not in theirs] == [], file


def setting_paths(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every path of a setting, whatever the variant."""
    found = set()
    for name, field in model.model_fields.items():
        found |= {f"{prefix}{name}"}
        found |= {path for inner in models_in(field.annotation) for path in setting_paths(inner, f"{prefix}{name}.")}
    return found


PATHS = setting_paths(SweepConfig) | setting_paths(TrialConfig)  # a recorded trial is set without `trial.`
WITH_DOTTED_KEYS = ("space.", "objectives.", "reference_point.", "scheduler.floors.")


def exists(setting: str) -> bool:
    path = setting.partition("=")[0]
    return path in PATHS or path.startswith(WITH_DOTTED_KEYS)


def test_a_setting_that_does_not_exist_is_noticed() -> None:
    assert all(map(exists, ["trial.optim.lr=1", "epochs=2", "space.optim.lr={}", "trial.loss.criterion.beta=1"]))
    assert not any(map(exists, ["trial.optim.lrr=1", "budget.trails=3", "spaces=1", "loss.beta=1"]))


@pytest.mark.parametrize("file", [*DOCS, *shipped().values()], ids=name_of)
def test_settings_after_set_in_the_text_exist(file: Path) -> None:
    for quoted in re.findall(r"--set ('[^']*'|\"[^\"]*\"|[^\s`'\"]+)", file.read_text("utf-8")):
        setting = quoted.strip("'\"")
        if re.match(r"[a-z_.0-9]+=", setting):
            assert exists(setting), f"{name_of(file)}: --set {setting}"


# -- targets, links, exit codes ----------------------------------------------------------------------------------------


def test_every_make_target_in_the_text_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= targets
    for file in DOCS:
        text = file.read_text("utf-8")
        code = [*(block for _, block in blocks(text)), *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))]
        for target in re.findall(r"(?:^|[\s&;])make ([a-z][\w-]*)", "\n".join(code)):
            assert target in targets, f"{name_of(file)}: make {target}"


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+?)\s*#*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", DOCS, ids=name_of)
def test_every_relative_link_and_image_leads_somewhere(file: Path) -> None:
    text = file.read_text("utf-8")
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    links = re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", prose) + re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    links += re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose, re.MULTILINE)
    for link in links:
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{name_of(file)} links to {link}"
        assert target.is_relative_to(ROOT), f"{name_of(file)} links out of the repository: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text("utf-8")), f"{name_of(file)} links to {link}"


def test_the_readme_states_every_exit_code_as_the_help_does() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    meanings = dict(re.findall(r"(\d+) ([a-z ]+)", EPILOG))
    assert list(meanings) == ["0", "1", "2", "3", "130"]
    after = re.split("exit code", text, flags=re.IGNORECASE)[1][:600]
    for code in meanings:
        assert re.search(rf"\b{code}\b", after), f"exit code {code} is not in the README"


PAGES = {"reference.md": reference, "metrics.md": page}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_from_the_code_is_that_of_this_code(name: str) -> None:
    assert (ROOT / "docs" / name).read_text("utf-8") == PAGES[name](), "run `make docs`"


# -- sources -----------------------------------------------------------------------------------------------------------

SOURCE = re.compile(r"arXiv \d{4}\.\d{4,5}|section \d")


@pytest.mark.parametrize("criterion", typing.get_args(typing.get_args(Forget)[0]), ids=lambda c: c.__name__)
def test_every_criterion_has_a_source(criterion: type) -> None:
    """In its docstring, in its formula's, or in that of a preset with it (`section` is of the module's source)."""
    kind = criterion.model_fields["type"].default
    words = [criterion.__doc__ or "", getattr(getattr(criterion, "formula", None), "__doc__", None) or ""]
    words += [source for loss, source in PRESETS.values() if loss["criterion"]["type"] == kind]
    assert any(SOURCE.search(text) for text in words)


@pytest.mark.parametrize("label", PRESETS)
def test_every_preset_has_a_source(label: str) -> None:
    assert re.search(r"arXiv \d{4}\.\d{4,5}|pull request \d+|OpenUnlearning's configuration", PRESETS[label][1])


# -- nobody's machine --------------------------------------------------------------------------------------------------

PLACES = [f"/{name}/" for name in ("work", "root", "Users")] + [f"/{name}/[a-z]" for name in ("tmp", "home")]
"""Put together here, so that this file does not find itself."""


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if listed.returncode:
        pytest.skip("not a checkout: no list of files")
    pattern = re.compile(rf"(?<![\w.~$}}])(?:{'|'.join(PLACES)})")
    assert pattern.search("in /" + "work/x")
    assert pattern.search('"/' + "tmp/x")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        file = ROOT / name
        if file.is_file() and b"\0" not in (content := file.read_bytes()):
            lines = content.decode("utf-8").splitlines()
            found += [
                f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if pattern.search(line)
            ]
    assert found == []
