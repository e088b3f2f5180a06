"""What MLflow holds beyond the trials themselves: their seeds, descriptions, saved views."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import Anchor, Ended, Epoch, Event, Opened, Suggested, SweepInfo
from orchestrator.results.intervals import t_interval
from orchestrator.tracking.runs import trial_name
from orchestrator.tracking.tracker import sync
from orchestrator.tracking.uri import resolve_uri
from orchestrator.tracking.views import views_of
from tests.test_tracking import OBJECTIVES, Stored, make_folder, write

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
FORGET, RETAIN = OBJECTIVES
START = 1_700_001_000.0
NOTE = "mlflow.note.content"


@pytest.fixture(autouse=True)
def no_uri_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def a_trial(number: int, forget: float, **fields: Any) -> list[Event]:
    """A trial of one epoch that ends COMPLETE unless told otherwise."""
    state, retain = fields.pop("state", "COMPLETE"), fields.pop("retain", 0.9)
    trial_id, at = f"{number:05d}", START + 10 * number
    known: dict[str, Any] = {"label": None, "params": {}, "config": {}, "fingerprint": f"fp{number}", "seed": 0}
    return [
        Suggested(trial_id=trial_id, number=number, at=at, **(known | fields)),
        Epoch(trial_id=trial_id, epoch=1, metrics={FORGET: forget, RETAIN: retain}, seconds=1.0, at=at + 1),
        Ended(trial_id=trial_id, state=state, epoch=1, at=at + 2),
    ]


def seeds(of: str, first: int, *values: float, origin: str = "confirm") -> list[Event]:
    events = []
    for index, value in enumerate(values):
        events += a_trial(first + index, value, of=of, seed=1 + index, origin=origin)
    return events


def child_of(stored: Stored, trial_id: str) -> str | None:
    """Name of the run that a trial's run lies below."""
    above = stored.children[trial_id].data.tags["mlflow.parentRunId"]
    names = {run.info.run_id: run.info.run_name for run in [*stored.parents, *stored.children.values()]}
    return names[above]


def test_other_seeds_of_a_trial_are_runs_below_its_run(output: Path) -> None:
    folder = make_folder(output, "seeds")
    write(folder, [*a_trial(0, 0.2, label="npo", origin="baseline"), *seeds("00000", 1, 0.25, 0.35)])
    sync(folder)
    stored = Stored(folder)
    assert [child_of(stored, trial_id) for trial_id in ("00000", "00001")] == ["seeds", "00000 npo"]
    run = stored.children["00001"]
    assert run.info.run_name == "00001 seed 1 of 00000"
    assert {"of": "00000", "seed": "1", "origin": "confirm", "front": "false"}.items() <= run.data.tags.items()


def test_the_run_of_a_confirmed_trial_has_mean_and_interval_of_its_fresh_seeds_alone(output: Path) -> None:
    folder = make_folder(output, "confirmed")
    write(folder, [*a_trial(0, 0.1), *seeds("00000", 1, 0.2, 0.3, 0.7), *a_trial(4, 0.5)])
    for _ in range(2):
        sync(folder)
    stored = Stored(folder)
    metrics = stored.children["00000"].data.metrics
    mean, low, high = t_interval([0.2, 0.3, 0.7])
    found = [metrics[f"confirmed.{FORGET}.{part}"] for part in ("mean", "low", "high")]
    assert found == pytest.approx([mean, low, high])
    assert metrics["confirmed.seeds"] == 3
    run_id = stored.children["00000"].info.run_id
    history = stored.client.get_metric_history(run_id, f"confirmed.{FORGET}.mean")
    assert [(point.step, point.value) for point in history] == [(2, 0.25), (3, pytest.approx(0.4))]
    assert not [name for name in stored.children["00004"].data.metrics if name.startswith("confirmed")]


def test_replicates_are_told_together_with_the_trial_itself_and_apart_from_fresh_seeds(output: Path) -> None:
    folder = make_folder(output, "replicates")
    replicates = seeds("00000", 1, 0.3, origin="search")
    write(folder, [*a_trial(0, 0.1), *replicates, *seeds("00000", 2, 0.6, 0.8)])
    sync(folder)
    metrics = Stored(folder).children["00000"].data.metrics
    assert metrics[f"replicates.{FORGET}.mean"] == pytest.approx(0.2)
    assert metrics[f"confirmed.{FORGET}.mean"] == pytest.approx(0.7)


def test_seeds_that_failed_are_not_in_the_mean(output: Path) -> None:
    folder = make_folder(output, "failed seeds")
    failed = a_trial(3, 0.9, of="00000", seed=3, origin="confirm", state="FAIL")
    write(folder, [*a_trial(0, 0.1), *seeds("00000", 1, 0.2, 0.4), *failed])
    sync(folder)
    metrics = Stored(folder).children["00000"].data.metrics
    assert (metrics[f"confirmed.{FORGET}.mean"], metrics["confirmed.seeds"]) == (pytest.approx(0.3), 2)


def test_earlier_trials_are_there_once_and_cost_no_epochs(output: Path) -> None:
    folder = make_folder(output, "earlier")
    write(folder, [*a_trial(0, 0.1, origin="earlier"), *a_trial(1, 0.3)])
    assert [sync(folder).sent for _ in range(2)] == [2, 0]
    stored = Stored(folder)
    assert stored.parents[0].data.metrics["epochs_spent"] == 1
    assert stored.children["00000"].data.tags["origin"] == "earlier"


def test_an_ablation_and_a_missed_constraint_can_be_filtered_by(output: Path) -> None:
    folder = make_folder(output, "ablation")
    events = a_trial(0, 0.1, origin="ablation", phase=1, design="loss.granularity = token")
    missed = events[-1].model_copy(update={"violations": {RETAIN: 0.2}})
    write(folder, [*events[:-1], missed])
    sync(folder)
    run = Stored(folder).children["00000"]
    wanted = {"phase": "1", "design": "loss.granularity = token", "violations": RETAIN, "front": "false"}
    assert wanted.items() <= run.data.tags.items()
    assert run.info.run_name == "00000 loss.granularity = token"


def test_an_extended_sweep_keeps_its_runs(output: Path) -> None:
    folder = make_folder(output, "extended sweep")
    write(folder, a_trial(0, 0.1))
    sync(folder)
    changed = {"budget.trials": (4, 8)}
    write(folder, [Opened(fingerprint="beef", changed=changed, at=START + 50), *a_trial(1, 0.05)])
    info = SweepInfo.read(folder)
    config = info.config | {"budget": {"trials": 8}}
    (folder / "sweep.json").write_text(
        info.model_copy(update={"fingerprint": "beef", "config": config}).model_dump_json(), encoding="utf-8"
    )
    assert sync(folder).sent == 1
    stored = Stored(folder)
    assert (stored.runs, len(stored.parents)) == (3, 1)
    assert stored.parents[0].data.tags["fingerprint"] == "beef"
    assert stored.parents[0].data.params["budget.trials"] == "4"  # how it began
    assert [stored.children[f"0000{n}"].data.tags["front"] for n in (0, 1)] == ["false", "true"]


# -- descriptions ------------------------------------------------------------------------------------------------------


def test_the_description_shows_objectives_front_picture_and_links(output: Path) -> None:
    config = {"description": "Is it worth it? See http://user:hunter2@host", "trial": {"epochs": 1}}
    folder = make_folder(output, "described", config=config)
    first = a_trial(0, 0.1, label="npo", params={"loss.criterion.type": "satimp", "optim.lr": 0.0002})
    write(folder, [*first, *a_trial(1, 0.2, retain=0.95), *a_trial(2, 0.5, state="PRUNED")])
    sync(folder)
    stored = Stored(folder)
    run_id, experiment = stored.parents[0].info.run_id, stored.experiment.experiment_id
    note = stored.parents[0].data.tags[NOTE]
    assert "Is it worth it?" in note
    assert "hunter2" not in note
    assert f"min {FORGET} and max {RETAIN}" in note
    assert "3 trials ended (2 complete, 1 stopped early); 3 epochs" in note
    assert "| 00000 npo" in note
    assert "criterion satimp, lr = 0.0002" in note
    assert f"![The front](get-artifact?path=figures%2Ffront.png&run_uuid={run_id})" in note
    assert f"#/experiments/{experiment}/runs/{run_id}/artifacts/report.html" in note


def test_the_description_gives_intervals_of_confirmed_trials(output: Path) -> None:
    folder = make_folder(output, "described seeds")
    write(folder, [*a_trial(0, 0.1), *seeds("00000", 1, 0.2, 0.4)])
    sync(folder)
    note = Stored(folder).parents[0].data.tags[NOTE]
    assert "| 0.30 (0.00 to 1.00) |" in note
    assert "95 % interval" in note


def test_a_description_of_somebody_else_stays(output: Path) -> None:
    folder = make_folder(output, "my words")
    write(folder, a_trial(0, 0.1))
    sync(folder)
    stored = Stored(folder)
    stored.client.set_tag(stored.parents[0].info.run_id, NOTE, "My words.")
    stored.client.set_experiment_tag(stored.experiment.experiment_id, NOTE, "My benchmark.")
    sync(folder)
    stored = Stored(folder)
    assert (stored.parents[0].data.tags[NOTE], stored.experiment.tags[NOTE]) == ("My words.", "My benchmark.")


def test_a_long_description_is_cut_and_still_ours(output: Path) -> None:
    folder = make_folder(output, "long", config={"description": "word " * 2000})
    write(folder, a_trial(0, 0.1))
    sync(folder)
    write(folder, a_trial(1, 0.05))
    before = Stored(folder).parents[0].data.tags[NOTE]
    sync(folder)
    assert len(before) < 5000
    assert "Written by unlearn-sweep" in before


def test_a_sweep_without_a_trial_is_described_too(output: Path) -> None:
    folder = make_folder(output, "nothing yet")
    write(folder, [Anchor(name="target", metrics={FORGET: 0.9}, at=START)])
    sync(folder)
    assert "No trial is on the front yet." in Stored(folder).parents[0].data.tags[NOTE]


# -- views -------------------------------------------------------------------------------------------------------------


def an_info(**changes: Any) -> SweepInfo:
    values: dict[str, Any] = {
        "name": "criteria",
        "benchmark": "b",
        "config": {},
        "objectives": OBJECTIVES,
        "reference_point": {FORGET: 1.0, RETAIN: 0.0},
        "fingerprint": "f",
        "data": "d",
        "model": "m",
        "tracking_uri": "sqlite:///mlflow.db",
        "git_commit": None,
        "versions": {},
        "created": 1.5,
    }
    return SweepInfo.model_validate(values | changes)


def states_of(info: SweepInfo) -> dict[str, dict[str, Any]]:
    """Name of a saved view -> what it holds."""
    saved = [json.loads(value) for value in views_of(info).values()]
    return {view["name"]: json.loads(view["state"]) for view in saved}


def test_saved_views_have_the_columns_that_a_sweep_is_read_by() -> None:
    states = states_of(an_info())
    assert list(states) == ["criteria: trials", "criteria: front"]
    trials = states["criteria: trials"]
    assert trials["selectedColumns"][:3] == [
        "metrics.`forget/extraction_strength`",
        "metrics.`retain/extraction_strength`",
        "tags.`front`",
    ]
    assert (trials["orderByKey"], trials["orderByAsc"]) == ("metrics.`forget/extraction_strength`", True)
    assert states["criteria: front"]["searchFilter"] == "tags.sweep = 'criteria-1500' AND tags.front = 'true'"


@pytest.mark.parametrize(
    "config", [{"confirm": {"seeds": 3}}, {"replicates": 2}, {"phases": [{"replicates": None}, {"replicates": 3}]}]
)
def test_a_sweep_with_several_seeds_has_a_view_of_them_by_point_and_their_means_as_columns(
    config: dict[str, Any],
) -> None:
    states = states_of(an_info(config=config))
    section = "confirmed" if "confirm" in config else "replicates"
    assert f"metrics.`{section}.{FORGET}.mean`" in states["criteria: trials"]["selectedColumns"]
    assert states["criteria: seeds"]["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "of"}]


def test_an_objective_to_be_maximised_is_sorted_downwards() -> None:
    (trials, _) = states_of(an_info(objectives={RETAIN: "max"})).values()
    assert trials["orderByAsc"] is False
    assert "compareRunCharts" not in trials


def test_views_fit_into_a_tag_of_an_experiment() -> None:
    names = {f"forget.a_metric_with_quite_a_long_name_{n}": "min" for n in range(6)}
    config = {"confirm": {"seeds": 3}, "replicates": 2}
    tags = views_of(an_info(objectives=names, config=config, name="n" * 100))
    assert max(map(len, tags.values())) < 5000
    assert max(map(len, tags)) < 250


def test_a_sync_writes_the_views_of_its_sweep_and_leaves_those_of_others(output: Path) -> None:
    folders = [make_folder(output, name) for name in ("view one", "view two")]
    for folder in folders:
        write(folder, a_trial(0, 0.1))
        sync(folder, resolve_uri(output, None))
    names = {
        json.loads(value)["name"]
        for key, value in Stored(folders[0]).experiment.tags.items()
        if key.startswith("mlflow.sharedViewState.")
    }
    assert {"view one: trials", "view one: front", "view two: trials", "view two: front"} <= names


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "00007"),
        ({"label": "npo"}, "00007 npo"),
        ({"label": "npo", "of": "00001", "seed": 4}, "00007 npo, seed 4 of 00001"),
        ({"design": "optim.lr = 0.1"}, "00007 optim.lr = 0.1"),
    ],
)
def test_a_run_is_called_after_what_is_special_about_its_trial(fields: dict[str, Any], name: str) -> None:
    trial = a_trial(7, 0.1, **fields)[0]
    assert isinstance(trial, Suggested)
    assert trial_name(trial) == name
