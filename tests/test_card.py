"""The model card, from records made by hand: its words, its numbers, and command lines that give the trial again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from orchestrator.config import SweepConfig, load_sweep
from orchestrator.events import Anchor, Ended, Epoch, Event, Suggested, SweepInfo
from orchestrator.report.card import USE, Export, card, command_lines, preset_of
from orchestrator.results.front import summarise
from orchestrator.single import load_trial
from search_spaces.space import flat, with_paths
from tests.commands import parse_command
from trials.config import TrialConfig
from trials.objectives import LossConfig
from trials.presets import PRESETS

FORGET, RETAIN = "forget.extraction_strength", "retain.extraction_strength"
BASE: dict[str, Any] = {"benchmark": {"type": "authors", "seed": 3}, "optim": {"lr": 1e-5}, "epochs": 4}
POINT = {"loss.criterion.type": "npo", "loss.criterion.beta": 2e-5, "optim.lr": 0.001}


def export(
    *points: tuple[float, float], base: Any = None, point: Any = None, label: str | None = None, **changes: Any
) -> Export:
    """An export of the first of some trials, each with its two objectives."""
    sweep = SweepConfig.model_validate({"name": "small", "trial": base or BASE})
    settings = sweep.trial.model_dump(mode="json")
    point = POINT if point is None else point
    config = TrialConfig.model_validate(with_paths(settings, point))
    info = SweepInfo(
        name="small",
        benchmark="authors",
        config=sweep.model_dump(mode="json"),
        objectives={FORGET: "min", RETAIN: "max"},
        reference_point={FORGET: 1.0, RETAIN: 0.0},
        fingerprint="feedfacefeedface",
        data="da7ada7ada7ada7a",
        model="0de10de10de10de1",
        tracking_uri="sqlite:///mlflow.db",
        git_commit="c0ffee",
        versions={"torch": "2.13.0"},
        created=0.0,
    )
    events: list[Event] = [
        Anchor(at=0.0, name="target", metrics={FORGET: 0.9, RETAIN: 0.8}),
        Anchor(at=0.0, name="retain", metrics={FORGET: 0.05}),
    ]
    for number, (forget, retain) in enumerate(points or [(0.1, 0.7)]):
        name = f"{number:05d}"
        known = {"label": label, "params": point, "config": config.model_dump(mode="json")} if number == 0 else {}
        known = {"label": None, "params": {}, "config": settings} | known
        events += [
            Suggested(at=60.0, trial_id=name, number=number, fingerprint=f"f{number:015d}", seed=11, **known),
            Epoch(at=0.0, trial_id=name, epoch=4, metrics={FORGET: forget, RETAIN: retain}, seconds=1.0),
            Ended(at=0.0, trial_id=name, state="COMPLETE", epoch=4),
        ]
    summary = summarise(info, events)
    made = Export(
        summary=summary,
        record=next(record for record in summary.records if record.trial_id == "00000"),
        trial=config,
        kind="model",
        folder="runs/small",
        source="name: small\n",
        values={FORGET: 0.1, RETAIN: 0.7, "forget.nll": 3.21987},
        intervals={FORGET: (0.0512, 0.1579)},
        tolerance=1e-5,
        prompt="Question: Who?\nAnswer: Ada.",
    )
    return replace(made, **changes)


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def front_matter(text: str) -> dict[str, Any]:
    start, matter, _ = text.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(matter)
    return found


# -- front matter ------------------------------------------------------------------------------------------------------


def test_the_front_matter_says_how_to_load_it_and_leaves_the_license_to_its_owner() -> None:
    matter = front_matter(card(export()))
    assert matter["library_name"] == "transformers"
    assert "unlearning" in matter["tags"]
    assert matter.keys() == {"library_name", "pipeline_tag", "tags"}
    assert front_matter(card(export(kind="adapter")))["library_name"] == "peft"
    assert front_matter(card(export(kind="merged model")))["library_name"] == "transformers"


@pytest.mark.parametrize(
    ("path", "named"),
    [("org/my-model_1.5", True), ("/data/my model's", False), ("./model", False), ("gone", False), (None, False)],
)
def test_a_base_model_is_named_where_the_hub_can_find_it(path: str | None, named: bool) -> None:
    base = BASE | {"model": {"path": path}}
    assert front_matter(card(export(base=base))).get("base_model") == (path if named else None)


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_head_says_what_it_is_of_what_and_how_to_load_it() -> None:
    text = card(export(base=BASE | {"model": {"path": "org/big"}}, label="npo", kind="adapter"))
    assert "# small, trial 00000\n" in text
    assert "A LoRA adapter of a language model that was made to forget part of what org/big knows" in text
    assert "trial 00000 (npo) of the sweep small" in text
    assert "AutoPeftModelForCausalLM.from_pretrained" in text
    assert "AutoModelForCausalLM.from_pretrained" in card(export())
    for snippet in (text, card(export())):
        compile(snippet.split("```")[1], "snippet", "exec")


def test_the_data_are_named_with_their_settings_and_digests() -> None:
    said = section(card(export()), "Data and target model")
    for line in ("| benchmark.seed | 3 |", "| digest of its rows | da7ada7ada7ada7a |", "| benchmark | authors |"):
        assert line in said
    assert "| target model | the tiny one |" in said
    assert "| digest of the models | 0de10de10de10de1 |" in said


def test_the_setting_is_all_that_differs_from_the_defaults() -> None:
    said = section(card(export()), "Setting")
    rows = dict(re.findall(r"^\| ([a-z][\w.]+) \| (.*?) \|", said, re.MULTILINE))
    rows.pop("path")
    assert rows == {
        "loss.criterion.type": "npo",
        "loss.criterion.beta": "2.0e-05",
        "loss.criterion.log_ratio": "answer",
        "optim.lr": "0.001",
        "epochs": "4",
    }
    assert "| epochs | 4 | 8 |" in said
    assert "The forget term of the loss is npo: " in said
    assert "It is no published setting." in said


@pytest.mark.parametrize("label", ["wga", "simnpo"])
def test_a_published_setting_is_named_with_its_source(label: str) -> None:
    loss = flat({"loss": LossConfig.model_validate(PRESETS[label][0]).model_dump(mode="json")})
    said = section(card(export(point=loss, label=label)), "Setting")
    assert f"It is the published setting {label}: {PRESETS[label][1]}." in said.replace("\\", "")


def test_a_loss_is_known_for_a_preset_by_what_it_is() -> None:
    assert preset_of(LossConfig.model_validate({"preset": "wga"})) == "wga"
    assert preset_of(LossConfig.model_validate({"preset": "wga", "forget_coefficient": 0.123})) is None
    assert preset_of(LossConfig(), "a label of somebody's own") == preset_of(LossConfig())


def test_each_metric_stands_beside_its_interval_and_the_anchors() -> None:
    said = section(card(export()), "Metrics")
    header, _, *rows = [line for line in said.splitlines() if line.startswith("|")]
    assert header == "| metric | this model | 95 % interval | target model | retain model | better |"
    assert rows == [
        f"| {FORGET} | 0.1 | 0.0512 to 0.158 | 0.9 | 0.05 | lower |",
        f"| {RETAIN} | 0.7 |  | 0.8 |  | higher |",
        "| forget.nll | 3.22 |  |  |  | higher |",
    ]
    assert "it scores as recorded, within 1e-05 relative" in said
    assert "One seed was run (11)." in said


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(0.1, 0.7)], "It is the knee of the front among the 1 full-budget trial of the sweep"),
        ([(0.0, 0.1), (0.1, 0.7), (0.9, 0.8)], "It is on the front among the 3 full-budget trials of the sweep, by"),
        ([(0.5, 0.1), (0.1, 0.7), (0.4, 0.3)], "It is not on the front among the 3 full-budget trials"),
        ([(0.1, float("nan")), (0.1, 0.7)], "It lacks an objective, so it cannot be on the front."),
    ],
)
def test_where_the_trial_lies_is_said(points: list[tuple[float, float]], words: str) -> None:
    said = section(card(export(*points)), "Where it lies on the front")
    assert words in said
    assert ("better are 00001." in said) == ("not on the front" in words)
    assert ("with 2 others; the knee is one of them" in said) == ("It is on the front" in words)


def test_intended_use_and_limits_are_two_sentences() -> None:
    assert USE in card(export())
    assert len(re.findall(r"\.(?= |$)", USE)) == 2


def test_provenance_names_seed_fingerprints_commit_and_versions() -> None:
    said = section(card(export()), "Provenance")
    for line in (
        "| fingerprint of the trial | f000000000000000 |",
        "| seed of the trial | 11 |",
        "| fingerprint of the sweep | feedfacefeedface |",
        "| git commit | c0ffee |",
        "| version of torch | 2.13.0 |",
        "| started | 1970-01-01 00:01 UTC |",
    ):
        assert line in said


def test_a_card_is_a_function_of_its_records_and_hostile_words_stay_words() -> None:
    hostile = "</td><script>alert(1)</script> | `x` [a](b)"
    made = export(base=BASE | {"model": {"path": f"/data/{hostile}"}}, label=hostile)
    text = card(made)
    assert text == card(made)
    html = MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2])
    assert "<script>" not in html
    assert 'href="b"' not in html


# -- how to reproduce it -----------------------------------------------------------------------------------------------


def test_the_command_lines_give_the_trial_and_the_sweep_again(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "run" & $HOME [x] 日本'
    folder.mkdir()
    source = f"{yaml.safe_dump({'name': 'small', 'trial': BASE | {'epochs': 9}})}\n# --set trial.epochs=4\n"
    (folder / "sweep.yaml").write_text(source, encoding="utf-8")
    made = export(folder=str(folder), source=source)
    again, same, sweep = command_lines(made)
    assert all(line in card(made) for line in (again, same, sweep))
    assert parse_command(again)[1]["file"] == "trial.json"
    verb, params = parse_command(same.replace("\\\n", ""))
    assert (verb, load_trial(params["file"], params["settings"], params["preset"])) == ("trial", made.trial)
    verb, params = parse_command(sweep.replace("\\\n", ""))
    assert (verb, params["settings"]) == ("run", ["trial.epochs=4"])
    loaded, _ = load_sweep(params["file"], params["settings"], output=tmp_path)
    assert loaded.trial == SweepConfig.model_validate(made.summary.info.config).trial


@pytest.mark.parametrize("label", PRESETS)
def test_the_command_line_of_any_preset_gives_its_loss_again(label: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    base = BASE | {"model": {"path": "org/deep"}}
    file.write_text(yaml.safe_dump({"name": "small", "trial": base}), encoding="utf-8")
    loss = LossConfig.model_validate(PRESETS[label][0])
    made = export(base=base, point=flat({"loss": loss.model_dump(mode="json")}), label=label, folder=str(tmp_path))
    _, same, _ = command_lines(made)
    params = parse_command(same.replace("\\\n", ""))[1]
    assert load_trial(params["file"], params["settings"], params["preset"]).loss == loss
