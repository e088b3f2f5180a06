"""The report against small ledgers written through `Ledger`, in a folder with a hostile name."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from orchestrator.events import Record, State, Suggested, SweepInfo
from orchestrator.ledger import read_events
from orchestrator.report.report import write_report
from orchestrator.results.front import front_of, hypervolume_history, hypervolume_of, knee_of, settings_of, summarise
from tests.ledgers import BASE, FORGET, OBJECTIVES, REFERENCE, RETAIN, SPACE, Page, Run

FIGURES = ("front", "hypervolume", "epochs")
TABLES = ("choices", "front", "published", "epochs", "cost")
HOSTILE = "</td><script>alert('1')</script> | _x_ *y* `z` $\\alpha [a](b) & 日本\nsecond"


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def full(run: Run) -> Run:
    """Three on the front (00000, 00002, 00003), one dominated, one stopped, two failed, one running."""
    run.anchor("target", 0.95, 0.96)
    run.anchor("retain", 0.1, 0.9, forget__nll=2.0)
    run.trial(0.6, 0.9, label="gradient_ascent", forget__nll=0.5)
    run.trial(0.7, 0.5, label="wga", forget__nll=0.4)
    run.trial(0.2, 0.8, params={"loss.criterion.type": "satimp", "loss.criterion.beta1": 2.5e-05}, forget__nll=1.9)
    run.trial(0.05, 0.1, params={"loss.criterion.type": "npo", "loss.criterion.beta": 0.1}, forget__nll=3.0)
    run.trial(0.01, 0.95, state="PRUNED")
    run.trial(0.5, 0.5, state="FAIL", failure="loss is NaN\nTraceback: ...")
    run.trial(0.5, 0.5, state="FAIL", failure="loss is NaN\nanother")
    run.trial(0.5, 0.5, state=None)
    return run


def test_only_full_budget_trials_enter_the_front_sorted_by_the_first_objective(full: Run) -> None:
    report = write_report(full.folder)
    assert [record.trial_id for record in report.front] == ["00003", "00002", "00000"]
    assert report.knee is not None
    assert report.knee.trial_id == "00002"
    assert report.counts == {"COMPLETE": 4, "PRUNED": 1, "FAIL": 2}
    assert report.failures == {"loss is NaN": 2}


def test_hypervolume_is_the_area_of_the_steps(full: Run) -> None:
    # From forget 0.05 to 0.2 at retain 0.1, to 0.6 at 0.8, to the reference 1 at 0.9.
    expected = 0.15 * 0.1 + 0.4 * 0.8 + 0.4 * 0.9
    assert write_report(full.folder).hypervolume == pytest.approx(expected)
    found = full.ledger.records()
    assert hypervolume_of(found, OBJECTIVES, REFERENCE) == pytest.approx(expected)
    history = hypervolume_history(found, OBJECTIVES, REFERENCE)
    each = [hypervolume_of(found[: count + 1], OBJECTIVES, REFERENCE) for count in range(len(found))]
    assert history == pytest.approx(each)
    assert [float(row["hypervolume"]) for row in _rows(full.folder / "figures/hypervolume.csv")] == history


def test_all_files_of_the_contract_are_written(full: Run) -> None:
    report = write_report(full.folder)
    assert {str(path.relative_to(full.folder)) for path in report.files} == {
        "front.csv",
        "front.json",
        "report.md",
        "report.html",
        *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf", "csv")),
        *(f"tables/{name}.{kind}" for name in TABLES for kind in ("tex", "csv")),
    }
    assert all(path.stat().st_size > 0 for path in report.files)


def test_the_same_records_give_the_same_bytes(full: Run) -> None:
    first = {path: path.read_bytes() for path in write_report(full.folder).files}
    assert {path: path.read_bytes() for path in write_report(full.folder).files} == first


def test_front_csv_and_json_hold_exact_values_and_blank_cells_where_a_parameter_does_not_exist(
    full: Run,
) -> None:
    write_report(full.folder)
    rows = _rows(full.folder / "front.csv")
    assert [row["trial_id"] for row in rows] == ["00003", "00002", "00000"]
    assert [row["knee"] for row in rows] == ["false", "true", "false"]
    assert [row["loss.criterion.beta1"] for row in rows] == ["", "2.5e-05", ""]
    assert float(rows[1][FORGET]) == 0.2
    document = json.loads((full.folder / "front.json").read_text(encoding="utf-8"))
    assert document["knee"] == "00002"
    assert document["reference_point"] == REFERENCE
    assert document["front"][2]["label"] == "gradient_ascent"
    assert document["anchors"]["target"] == {FORGET: 0.95, RETAIN: 0.96}


def test_the_figure_has_its_data_beside_it(full: Run) -> None:
    write_report(full.folder)
    rows = _rows(full.folder / "figures/front.csv")
    groups = {row["name"]: row["group"] for row in rows}
    assert groups == {
        "00000": "front",
        "00001": "dominated",
        "00002": "front",
        "00003": "front",
        "00004": "pruned",
        "target model": "target",
        "retain model": "retain",
    }
    assert [row["letter"] for row in rows if row["label"]] == ["A", "B"]


def test_the_words_claim_no_more_than_one_seed_each(full: Run) -> None:
    for text in full.texts():
        assert (
            "3 trials are non-dominated among the 4 full-budget trials of this sweep, one seed each, those of "
            "ablations included. Neighbours on the front may differ by seed noise only." in text
        )


def test_epochs_spent_and_saved_are_counted(full: Run) -> None:
    summary = summarise(SweepInfo.read(full.folder), read_events(full.folder))
    # Four trials of 4 epochs and four of 2; the stopped one had 2 left; 5 trials of 4 did not fail.
    assert (summary.epochs_spent, summary.epochs_saved, summary.epochs_full) == (24, 2, 20)
    for text in full.texts():
        assert "saved 2 of the 20 epochs that trials without failure take at full budget (10%)" in text
        assert "1 trial has not ended yet: this is a part of the sweep." in text


def test_the_knee_is_named_with_settings_to_paste(full: Run) -> None:
    write_report(full.folder)
    text = (full.folder / "report.md").read_text(encoding="utf-8")
    assert "**Which setting should I use?** Trial 00002: criterion satimp, criterion.beta1 = 2.5e-05." in text
    block = re.search(r"```\n(.*?)\n```", text, flags=re.DOTALL)
    assert block is not None
    printed = subprocess.run(["bash", "-c", f"printf '%s\\n' {block[1]}"], capture_output=True, text=True, check=True)
    words = printed.stdout.splitlines()
    assert words[::2] == ["--set", "--set"]
    settings = dict(word.split("=", 1) for word in words[1::2])
    assert {path: yaml.safe_load(value) for path, value in settings.items()} == {
        "trial.loss.criterion.type": "satimp",
        "trial.loss.criterion.beta1": 2.5e-05,
    }


def test_settings_of_a_published_setting_include_what_lies_outside_of_the_space(run: Run) -> None:
    config = {**BASE, "loss": {"forget_coefficient": 0.125, "criterion": {"beta": 4.5, "type": "simnpo"}}}
    run.trial(0.1, 0.9, label="simnpo_tofu10", params={}, config=config)
    suggested = next(event for event in run.ledger.events if isinstance(event, Suggested))
    settings = settings_of(run.ledger.records()[0], suggested, BASE)
    assert list(settings.items()) == [
        ("loss.criterion.type", "simnpo"),
        ("loss.forget_coefficient", 0.125),
        ("loss.criterion.beta", 4.5),
    ]


def test_published_settings_are_placed_against_the_front(full: Run) -> None:
    full.trial(0.3, 0.7, state="FAIL", label="npo_ou", failure="out of memory")
    write_report(full.folder)
    lines = (full.folder / "report.md").read_text(encoding="utf-8").splitlines()
    table = {line.split(" | ")[0]: line for line in lines if re.match(r"\| (gradient_ascent|wga|npo_ou) ", line)}
    assert table["| gradient_ascent"].endswith("| 00000 | 0.6 | 0.9 | on the front | 0% | criterion uniform |")
    assert "| 0.7 | 0.5 | dominated by 00002 and 00000 | 46% | " in table["| wga"]
    assert "| 0.3 | 0.7 | failed |  | " in table["| npo_ou"]
    assert any(line.startswith("gradient_ascent: GA: uniform weights") and "wga: WGA" in line for line in lines)
    # 0.4 x 0.9 for the one that counts: the other is dominated by it.
    assert "the published settings alone span a hypervolume of 0.36, all full-budget" in " ".join(lines)


def test_what_goes_beyond_the_retain_model_is_said(full: Run) -> None:
    for text in full.texts():
        assert f"below the retain model's own {FORGET} of 0.1: 00003 (below a model" in text
        assert "above the retain model's own forget.nll of 2: 00003 (over-forgotten" in text


def test_a_few_other_metrics_of_the_front_are_one_table_with_the_models_they_are_judged_by(full: Run) -> None:
    full.measured(2, forget__fluency=4.5, relearned__forget_probability=0.75)
    assert full.section("Other metrics of the front") == [
        "Below the front stand published settings, then the models that trials are judged by.",
        "",
        "| trial | forget.fluency | forget.nll | relearned.forget_probability |",
        "| --- | ---: | ---: | ---: |",
        "| 00003 (over-forgotten) |  | 3 |  |",
        "| 00002 (knee) | 4.5 | 1.9 | 0.75 |",
        "| 00000 |  | 0.5 |  |",
        "| 00001 (wga) |  | 0.4 |  |",
        "| retain model |  | 2 |  |",
    ]
    write_report(full.folder)
    rows = _rows(full.folder / "front.csv")
    assert [row["relearned.forget_probability"] for row in rows] == ["", "0.75", ""]


def test_many_other_metrics_of_the_front_are_a_table_or_more_for_each_part_before_the_dot(run: Run) -> None:
    spoken = {f"forget__m{n}": n / 10 for n in range(9)}
    run.anchor("target", 0.9, 0.9, **spoken, tofu__model_utility=0.6)
    run.anchor("retain", 0.1, 0.8, tofu__model_utility=0.7)
    run.trial(0.5, 0.5, own__guess=3.0)
    run.measured(0, **spoken, tofu__model_utility=0.5, privacy__loss=0.25)
    assert [line for line in run.section("Other metrics of the front") if line] == [
        "Below the front stand published settings, then the models that trials are judged by.",
        r"### forget.\*",
        "| trial | m0 | m1 | m2 | m3 | m4 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| 00000 (knee) | 0 | 0.1 | 0.2 | 0.3 | 0.4 |",
        "| target model | 0 | 0.1 | 0.2 | 0.3 | 0.4 |",
        "| trial | m5 | m6 | m7 | m8 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 00000 (knee) | 0.5 | 0.6 | 0.7 | 0.8 |",
        "| target model | 0.5 | 0.6 | 0.7 | 0.8 |",
        r"### tofu.\*",
        "| trial | model_utility |",
        "| --- | ---: |",
        "| 00000 (knee) | 0.5 |",
        "| target model | 0.6 |",
        "| retain model | 0.7 |",
        r"### privacy.\*",
        "| trial | loss |",
        "| --- | ---: |",
        "| 00000 (knee) | 0.25 |",
        r"### own.\*",
        "| trial | guess |",
        "| --- | ---: |",
        "| 00000 (knee) | 3 |",
    ]
    write_report(run.folder)
    page = Page()
    page.feed((run.folder / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("h3") == 4


def test_who_of_the_front_could_not_be_measured_is_told_until_it_is(full: Run) -> None:
    full.measured(2, failure="OutOfMemory: 3 GiB are too much\nby far")
    full.measured(1, failure="no longer on the front")
    for text in full.texts():
        assert "These trials could not be measured further; resuming the sweep tries again." in text
        assert "OutOfMemory: 3 GiB are too much" in text
        assert "by far" not in text
        assert "no longer on the front" not in text
    assert "| 00002 | OutOfMemory: 3 GiB are too much |" in full.section("Other metrics of the front")
    full.measured(2, forget__fluency=4.5)
    assert all("could not be measured" not in text for text in full.texts())


def test_what_is_measured_later_changes_neither_front_nor_hypervolume(full: Run) -> None:
    before = write_report(full.folder)
    full.measured(2, **{FORGET.replace(".", "__"): 0.0, "forget__fluency": 4.5})
    after = write_report(full.folder)
    assert (after.hypervolume, after.counts) == (before.hypervolume, before.counts)
    assert [record.metrics[FORGET] for record in after.front] == [record.metrics[FORGET] for record in before.front]


def test_without_a_retain_model_over_forgetting_is_not_judged(run: Run) -> None:
    run.trial(0.1, 0.9)
    assert all("The retain model was not evaluated" in text for text in run.texts())


def test_without_any_full_budget_trial_the_report_says_so(run: Run) -> None:
    run.trial(0.3, 0.7, state="PRUNED")
    report = write_report(run.folder)
    assert (report.front, report.knee, report.hypervolume) == ([], None, 0.0)
    assert _rows(run.folder / "front.csv") == []
    assert all("There is no front" in text and "To be put behind" not in text for text in run.texts())


def test_a_sweep_of_which_nothing_has_ended_has_a_report(run: Run) -> None:
    report = write_report(run.folder)
    assert report.counts == {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0}
    assert all("0 trials have ended" in text for text in run.texts())


def test_a_complete_trial_without_an_objective_is_left_out_and_counted(run: Run) -> None:
    run.trial(0.5, 0.5)
    run.trial(0.1)
    assert [record.trial_id for record in write_report(run.folder).front] == ["00000"]
    assert all("1 more reached the full budget without all objectives" in text for text in run.texts())


def test_one_objective_has_its_best_trial_as_front_and_knee(tmp_path: Path) -> None:
    run = Run(tmp_path, objectives={"forget.nll": "max"}, reference_point={"forget.nll": 0.0})
    run.anchor("retain", 2.0)
    run.trial(1.0)
    run.trial(3.0, label="wga")
    report = write_report(run.folder)
    assert [record.trial_id for record in report.front] == ["00001"]
    assert report.knee == report.front[0]
    assert report.hypervolume == 3.0


@pytest.mark.parametrize("others", [{"general.nll": "min"}, {"general.nll": "min", "holdout.nll": "min"}])
def test_more_objectives_make_a_panel_for_each_pair(tmp_path: Path, others: dict[str, str]) -> None:
    run = Run(tmp_path, objectives=OBJECTIVES | others, reference_point=REFERENCE | dict.fromkeys(others, 4.0))
    run.trial(0.5, 0.5, 2.0, 1.0, label="wga")
    run.trial(0.9, 0.4, 1.0, 1.0)
    run.trial(0.9, 0.4, 2.0, 1.0)
    report = write_report(run.folder)
    assert [record.trial_id for record in report.front] == ["00000", "00001"]
    png = (run.folder / "figures/front.png").read_bytes()
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    # Three pairs stand in a row, six in two.
    assert (width > 2 * height) == (len(others) == 1)


def test_no_name_or_label_becomes_markup(tmp_path: Path) -> None:
    run = Run(tmp_path, name=HOSTILE, benchmark=HOSTILE, versions={HOSTILE: HOSTILE})
    run.anchor("retain", 0.1, 0.9)
    run.trial(0.2, 0.8, label=HOSTILE, params={"loss.criterion.type": HOSTILE})
    run.trial(0.1, 0.8, state="FAIL", failure=HOSTILE)
    write_report(run.folder, {HOSTILE: "javascript:alert(1)", "fine": "http://127.0.0.1/?a=<b>&c=`d`) e"})
    page, rendered = Page(), Page()
    page.feed((run.folder / "report.html").read_text(encoding="utf-8"))
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    rendered.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    for found in (page, rendered):
        assert not {"script", "em", "b"} & set(found.tags)
        assert "javascript" not in "".join(value for _, value in found.attributes)
        assert sum(name == "href" for name, _ in found.attributes) == 1
        assert found.text.count("<script>alert('1')</script>") >= 7
        assert found.text.count("_x_ *y* `z` $\\alpha [a](b) & 日本") >= 7
    assert page.tags.count("td") == rendered.tags.count("td")


def test_the_page_needs_nothing_from_outside(full: Run) -> None:
    write_report(full.folder)
    page = Page()
    page.feed((full.folder / "report.html").read_text(encoding="utf-8"))
    sources = [value for name, value in page.attributes if name == "src"]
    pictures = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
    assert pictures == [(full.folder / f"figures/{name}.png").read_bytes() for name in FIGURES]
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not [value for name, value in page.attributes if name == "href"]


def test_links_are_rendered_under_their_titles(full: Run) -> None:
    write_report(full.folder, {"All trials": "http://127.0.0.1:5000/#/experiments/1"})
    assert "[All trials](<http://127.0.0.1:5000/#/experiments/1>)" in (full.folder / "report.md").read_text("utf-8")
    assert '<a href="http://127.0.0.1:5000/#/experiments/1"' in (full.folder / "report.html").read_text("utf-8")


def test_provenance_is_told(full: Run) -> None:
    for text in full.texts():
        for told in (
            "feedfacefeedface",
            "da7ada7ada7ada7a",
            "0de10de10de10de1",
            "1970-01-01 00:00 UTC",
            "3.11.9",
        ):
            assert told in text


def test_the_space_is_a_table_with_its_conditions(full: Run) -> None:
    write_report(full.folder)
    text = (full.folder / "report.md").read_text(encoding="utf-8")
    assert "| loss.criterion.beta1 | 0.5 .. 8 | loss.criterion.type: satimp |" in text


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sweep\.json"):
        write_report(tmp_path)


def test_equal_trials_are_on_the_front_together_and_a_value_that_is_no_number_keeps_a_trial_off() -> None:
    def record(trial_id: str, forget: float, state: State = "COMPLETE") -> Record:
        return Record(
            trial_id=trial_id,
            state=state,
            epoch=1,
            label=None,
            params={},
            metrics={FORGET: forget, RETAIN: 0.5},
            fingerprint="",
            seed=0,
            failure=None,
            started=0.0,
            seconds=1.0,
        )

    found = [record("b", 0.5), record("a", 0.5), record("c", math.nan), record("d", 0.1, "PRUNED")]
    assert [r.trial_id for r in front_of(found, OBJECTIVES)] == ["a", "b"]
    assert knee_of([], OBJECTIVES) is None
    with pytest.raises(ValueError, match="no objective"):
        hypervolume_of(found, OBJECTIVES, {FORGET: 1.0})


def test_what_the_driver_uses_live_imports_neither_matplotlib_nor_an_engine() -> None:
    code = (
        "import sys, orchestrator.results.front\n"
        "print([m for m in ('matplotlib', 'torch', 'ray', 'optuna', 'mlflow') if m in sys.modules])\n"
        "import orchestrator.report.report\n"
        "print([m for m in ('matplotlib.pyplot', 'torch', 'ray', 'optuna', 'mlflow') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize(("known", "little"), [(0.01, True), (0.99, False)])
def test_a_target_model_with_little_to_forget_is_called_so(run: Run, known: float, little: bool) -> None:
    run.anchor("target", known, 0.9)
    run.trial(0.0, 0.0)
    for text in run.texts():
        assert "Before unlearning" in text
        assert ("it has little to forget" in text) is little


@pytest.mark.parametrize(
    ("described", "said"), [("which one?", "Which one? 1 trial"), ("Betas.", "Betas. 1 trial"), ("", "1 trial")]
)
def test_a_description_opens_the_report_as_a_sentence(tmp_path: Path, described: str, said: str) -> None:
    run = Run(tmp_path, config={"trial": BASE, "space": SPACE, "description": described})
    run.trial(0.2, 0.8)
    assert f"\n{said}" in run.markdown()
