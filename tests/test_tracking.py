import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from orchestrator import view_verbs
from orchestrator.events import Anchor, Ended, Epoch, Event, Measured, Suggested, SweepInfo
from orchestrator.ledger import Ledger, read_events
from orchestrator.problems import ConfigError
from orchestrator.tracking.store import Store
from orchestrator.tracking.tracker import Tracker, sync
from orchestrator.tracking.ui import serve_ui, ui_links
from orchestrator.tracking.uri import TrackingError, check_reachable, redacted, resolve_uri, uri_of

# MLflow's tables use an option of SQLAlchemy that 2.1 is to drop; its first use of a database takes seconds.
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
OBJECTIVES = {"forget.extraction_strength": "min", "retain.extraction_strength": "max"}
SECRET = "hunter2"
SECONDS = itertools.count()


@pytest.fixture(autouse=True)
def no_uri_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('it\'s "out" ü')


def make_folder(output: Path, name: str, **changes: object) -> Path:
    folder = output / name
    (folder / "figures").mkdir(parents=True)
    values = {
        "name": name,
        "benchmark": "tofu forget10",
        "config": {"objectives": OBJECTIVES, "budget": {"trials": 4, "gpu_hours": None}, "trial": {"epochs": 3}},
        "objectives": OBJECTIVES,
        "reference_point": {"forget.extraction_strength": 1.0, "retain.extraction_strength": 0.0},
        "fingerprint": "f00d",
        "data": "d",
        "model": "m",
        "tracking_uri": resolve_uri(output, None),
        "git_commit": "abc123",
        "versions": {"torch": "2"},
        "created": 1_700_000_000.0 + next(SECONDS),
    }
    info = SweepInfo.model_validate(values | changes)
    (folder / "sweep.json").write_text(info.model_dump_json(), encoding="utf-8")
    (folder / "report.md").write_text("# Report", encoding="utf-8")
    (folder / "figures" / "front.png").write_bytes(b"png")
    return folder


def an_epoch(trial_id: str, epoch: int, at: float, forget: float = 0.5) -> Epoch:
    metrics = {"forget.extraction_strength": forget, "retain.extraction_strength": 0.9, "forget.nll": 2.5}
    return Epoch(trial_id=trial_id, epoch=epoch, metrics=metrics, seconds=1.5, at=at)


def a_suggestion(number: int, at: float, label: str | None = None, **config: object) -> Suggested:
    settings = {"loss": {"criterion": {"type": "satimp", "beta1": 5.0}}, "optim": {"betas": [0.9, 0.99]}}
    return Suggested(
        trial_id=f"{number:05d}",
        number=number,
        label=label,
        params={"loss.criterion": {"type": "satimp"}},
        config=settings | config,
        fingerprint=f"fp{number}",
        seed=number,
        at=at,
    )


def four_trials() -> list[Event]:
    """Trial 0 is the front, 1 is dominated, 2 is pruned after an epoch, 3 fails."""
    start = 1_700_001_000.123456
    events: list[Event] = [Anchor(name="target", metrics={"forget.nll": 0.1}, at=start)]
    events += [Anchor(name="retain", metrics={"forget.nll": 3.0}, at=start)]
    events += [a_suggestion(n, start + n, "npo" if n == 0 else None) for n in range(4)]
    for epoch in (1, 2, 3):
        events += [
            an_epoch("00000", epoch, start + 10 * epoch, 0.1),
            an_epoch("00001", epoch, start + 10 * epoch),
        ]
    events += [
        an_epoch("00002", 1, start + 11),
        Ended(trial_id="00002", state="PRUNED", epoch=1, at=start + 12),
    ]
    events += [Ended(trial_id="00003", state="FAIL", epoch=0, failure="nll is NaN at epoch 1", at=start + 13)]
    events += [Ended(trial_id=f"0000{n}", state="COMPLETE", epoch=3, at=start + 40 + n) for n in (0, 1)]
    return events


def write(folder: Path, events: list[Event]) -> None:
    ledger = Ledger(folder)
    for event in events:
        ledger.append(event)
    ledger.close()


class Stored:
    """What the store holds of one sweep, read with MLflow itself."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        info = SweepInfo.read(folder)
        self.client = MlflowClient(tracking_uri=resolve_uri(folder.parent, None))
        experiment = self.client.get_experiment_by_name(info.benchmark)
        assert experiment is not None
        self.experiment = experiment
        own = f"tags.sweep = '{info.name}-{round(info.created * 1000)}'"
        mine = self.client.search_runs([experiment.experiment_id], own)
        self.parents = [run for run in mine if run.data.tags["origin"] == "sweep"]
        self.children = {run.data.tags["trial_id"]: run for run in mine if "trial_id" in run.data.tags}
        self.models = {run.data.tags["anchor"]: run for run in mine if run.data.tags["origin"] == "anchor"}
        self.runs = len(mine)

    def points(self) -> set[tuple[str, str, float, int, int]]:
        return set(self.all_points())

    def all_points(self) -> list[tuple[str, str, float, int, int]]:
        return [
            (who, point.key, point.value, point.step, point.timestamp)
            for who, run in [("parent", self.parents[0]), *sorted((self.children | self.models).items())]
            for key in run.data.metrics
            for point in self.client.get_metric_history(run.info.run_id, key)
        ]


@pytest.fixture(scope="module")
def synced(output: Path) -> Path:
    folder = make_folder(output, "synced")
    write(folder, four_trials())
    sync(folder)
    return folder


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, orchestrator.tracking.tracker; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_second_sync_adds_neither_a_run_nor_a_point(synced: Path) -> None:
    before = Stored(synced)
    result = sync(synced)
    after = Stored(synced)
    assert (result.trials, result.sent) == (4, 0)
    assert (before.runs, after.runs) == (7, 7)
    assert sorted(before.all_points()) == sorted(after.all_points())
    # 3 metrics and the seconds of 7 epochs; 7 numbers after each of 4 ended trials; one of each model at two steps.
    assert len(after.all_points()) == 7 * 4 + 4 * 7 + 2 * 2


def test_points_carry_the_epoch_and_the_time_of_their_event(synced: Path) -> None:
    expected = {
        (event.trial_id, event.epoch, round(event.at * 1000))
        for event in read_events(synced)
        if isinstance(event, Epoch)
    }
    stored = Stored(synced)
    points = {(who, step, at) for who, key, _, step, at in stored.points() if key == "forget/nll"}
    assert {point for point in points if point[0] in stored.children} == expected


def test_states_become_statuses_and_times_are_those_of_the_events(synced: Path) -> None:
    stored = Stored(synced)
    statuses = {trial_id: run.info.status for trial_id, run in stored.children.items()}
    assert statuses == {"00000": "FINISHED", "00001": "FINISHED", "00002": "KILLED", "00003": "FAILED"}
    assert stored.children["00003"].data.tags["failure"] == "nll is NaN at epoch 1"
    first = stored.children["00000"].info
    assert (first.start_time, first.end_time) == (1_700_001_000_123, 1_700_001_040_123)
    assert stored.parents[0].info.status == "FINISHED"


def test_trials_are_nested_under_the_sweep_and_tagged(synced: Path) -> None:
    stored = Stored(synced)
    (parent,) = stored.parents
    child = stored.children["00000"]
    wanted = {"trial_id": "00000", "state": "COMPLETE", "baseline": "npo", "fingerprint": "fp0", "epoch": "3"}
    wanted |= {"mlflow.parentRunId": parent.info.run_id, "git_commit": "abc123", "front": "true"}
    wanted |= {"method": "satimp", "origin": "search", "seed": "0", "of": "none"}
    assert wanted.items() <= child.data.tags.items()
    assert (parent.info.run_name, child.info.run_name) == ("synced", "00000 npo")
    assert (parent.data.tags["fingerprint"], parent.data.tags["versions.torch"]) == ("f00d", "2")


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("tags.front = 'true'", {"00000"}),
        ("tags.front = 'false'", {"00001", "00002", "00003"}),
        ("tags.state = 'PRUNED'", {"00002"}),
        ("tags.baseline != 'none'", {"00000"}),
        ("tags.method = 'satimp' AND tags.state = 'COMPLETE'", {"00000", "00001"}),
        ("tags.origin = 'anchor'", {"target model", "retain model"}),
        ("tags.of = 'none'", {"00000", "00001", "00002", "00003", "target model", "retain model"}),
    ],
)
def test_filters_of_the_user_interface_find_what_they_say(synced: Path, where: str, found: set[str]) -> None:
    stored = Stored(synced)
    own = f"tags.sweep = '{stored.parents[0].data.tags['sweep']}' AND {where}"
    runs = stored.client.search_runs([stored.experiment.experiment_id], own)
    assert {run.data.tags.get("trial_id") or run.info.run_name for run in runs} == found


def test_parameters_are_the_whole_config_by_path(synced: Path) -> None:
    stored = Stored(synced)
    assert stored.children["00001"].data.params == {
        "loss.criterion.type": "satimp",
        "loss.criterion.beta1": "5.0",
        "optim.betas": "[0.9, 0.99]",
    }
    assert stored.parents[0].data.params["objectives.forget.extraction_strength"] == "min"
    assert stored.parents[0].data.params["budget.gpu_hours"] == "null"


def test_the_sweep_has_its_summary_and_its_report(synced: Path) -> None:
    stored = Stored(synced)
    (parent,) = stored.parents
    metrics = parent.data.metrics
    assert metrics["hypervolume"] == metrics["hypervolume_by_epochs_spent"] == pytest.approx(0.9 * 0.9)
    assert (metrics["front_size"], metrics["trials_complete"], metrics["epochs_spent"]) == (1, 2, 7)
    assert (metrics["trials_pruned"], metrics["trials_failed"]) == (1, 1)
    names = {file.path for file in stored.client.list_artifacts(parent.info.run_id)}
    assert names == {"sweep.json", "report.md", "figures"}
    place = synced.parent / "mlartifacts" / "tofu_forget10" / parent.info.run_id / "artifacts" / "report.md"
    assert place.read_text(encoding="utf-8") == "# Report"


def test_hypervolume_stands_at_the_trials_that_ended_and_at_the_epochs_that_were_spent(synced: Path) -> None:
    stored = Stored(synced)
    run_id = stored.parents[0].info.run_id
    steps = {
        key: [point.step for point in stored.client.get_metric_history(run_id, key)]
        for key in ("hypervolume", "hypervolume_by_epochs_spent")
    }
    assert steps == {"hypervolume": [1, 2, 3, 4], "hypervolume_by_epochs_spent": [7, 7, 7, 7]}


def test_target_and_retain_model_are_runs_with_the_metrics_of_trials(synced: Path) -> None:
    stored = Stored(synced)
    target, retain = stored.models["target"], stored.models["retain"]
    assert [(run.info.run_name, run.info.status) for run in (target, retain)] == [
        ("target model", "FINISHED"),
        ("retain model", "FINISHED"),
    ]
    assert (target.data.metrics["forget/nll"], retain.data.metrics["forget/nll"]) == (0.1, 3.0)
    assert target.data.tags["mlflow.parentRunId"] == stored.parents[0].info.run_id
    # A level line over all epochs of the trials.
    assert [(step, value) for who, _, value, step, _ in stored.all_points() if who == "retain"] == [(0, 3.0), (3, 3.0)]


def test_what_a_killed_tracker_left_out_is_sent_once(output: Path, synced: Path) -> None:
    folder = make_folder(output, "half")
    events = four_trials()
    half = 9
    tracker = Tracker(folder)
    ledger = Ledger(folder)
    ledger.listen(tracker)
    for event in events[:half]:
        ledger.append(event)
    assert tracker.finish(60.0)
    ledger.close()
    # The driver is killed here: the parent run is ended as such, and three trials are open.
    assert Stored(folder).parents[0].info.status == "KILLED"
    write(folder, events[half:])
    assert sync(folder).sent == 4
    stored = Stored(folder)
    assert (stored.runs, stored.parents[0].info.status) == (7, "FINISHED")
    assert len(stored.all_points()) == len(stored.points()) == len(Stored(synced).points())
    assert stored.points() == Stored(synced).points()


def test_live_and_afterwards_give_the_same(output: Path, synced: Path) -> None:
    folder = make_folder(output, "live")
    tracker = Tracker(folder)
    ledger = Ledger(folder)
    ledger.listen(tracker)
    for event in four_trials():
        ledger.append(event)
    ledger.close()
    assert tracker.finish(60.0)
    live, afterwards = Stored(folder), Stored(synced)
    assert live.points() == afterwards.points()
    for trial_id, run in live.children.items():
        twin = afterwards.children[trial_id]
        assert (run.info.status, run.data.params) == (twin.info.status, twin.data.params)
        own = {"sweep", "mlflow.parentRunId", "mlflow.source.name"}
        assert {k: v for k, v in run.data.tags.items() if k not in own} == {
            k: v for k, v in twin.data.tags.items() if k not in own
        }


class Dying:
    """Passes calls on until the process dies, which is at the given call that writes."""

    def __init__(self, client: object, calls: int) -> None:
        self._client, self._left = client, calls

    def __getattr__(self, name: str) -> object:
        if name.startswith(("create", "log", "set", "update")):
            self._left -= 1
            if self._left < 0:
                raise ConnectionError("died here")
        return getattr(self._client, name)


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 4, 5, 6, 8, 11, 14, 16, 18, 19])
def test_whichever_call_is_the_last_the_rest_is_sent_once(output: Path, synced: Path, calls: int) -> None:
    folder = make_folder(output, f"dies after {calls} calls")
    write(folder, four_trials())
    store = Store(folder, resolve_uri(output, None))
    store.client = Dying(store.client, calls)  # type: ignore[assignment]
    for event in read_events(folder):
        store.take(event)
    with pytest.raises(ConnectionError, match="died here"):
        store.flush()
    sync(folder)
    stored = Stored(folder)
    assert sorted(stored.all_points()) == sorted(Stored(synced).all_points())
    assert (stored.runs, stored.parents[0].info.status) == (7, "FINISHED")
    assert {run.data.tags["state"] for run in stored.children.values()} == {"COMPLETE", "PRUNED", "FAIL"}


def test_more_than_a_batch_of_points_and_parameters_is_sent_whole(output: Path) -> None:
    folder = make_folder(output, "large")
    config = {f"part{n}": {"väl/ue?": "x" * 7000} for n in range(150)}
    epochs = [an_epoch("00000", n, 100.0 + n) for n in range(1, 501)]
    write(folder, [a_suggestion(0, 1.0, None, **config), *epochs])
    assert sync(folder).points == 2000
    child = Stored(folder).children["00000"]
    assert len(Stored(folder).points()) == 2000
    assert len(child.data.params) == 153
    assert child.data.params["part0.väl/ue_"] == "x" * 6000
    assert (child.info.status, child.data.tags["epoch"]) == ("RUNNING", "500")


def test_a_moved_output_folder_takes_its_records_along(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "new", "moved", tracking_uri=resolve_uri(tmp_path / "old", None))
    assert uri_of(folder) == resolve_uri(tmp_path / "new", None)
    (tmp_path / "old").mkdir()
    assert uri_of(folder) == resolve_uri(tmp_path / "old", None)


def test_a_resumed_tracker_sends_what_the_ledger_already_had(output: Path, synced: Path) -> None:
    folder = make_folder(output, "resumed")
    events = four_trials()
    write(folder, events[:9])
    tracker = Tracker(folder)
    ledger = Ledger(folder)
    ledger.listen(tracker)
    for event in events[9:]:
        ledger.append(event)
    ledger.close()
    assert tracker.finish(60.0)
    assert Stored(folder).points() == Stored(synced).points()


def test_a_front_that_moved_on_is_marked_anew(output: Path) -> None:
    folder = make_folder(output, "extended")
    events = four_trials()
    write(folder, events)
    sync(folder)
    at = events[-1].at
    better = an_epoch("00004", 3, at + 2, 0.01)
    write(
        folder,
        [a_suggestion(4, at + 1), better, Ended(trial_id="00004", state="COMPLETE", epoch=3, at=at + 3)],
    )
    sync(folder)
    children = Stored(folder).children
    assert (children["00000"].data.tags["front"], children["00004"].data.tags["front"]) == ("false", "true")


def measured(at: float, failure: str | None = None, **metrics: float) -> Measured:
    """Trial 0, the front of `four_trials`, measured further."""
    values = {name.replace("__", "."): value for name, value in metrics.items()}
    return Measured(trial_id="00000", metrics=values, seconds=9.0, failure=failure, at=at)


def test_what_is_measured_later_goes_to_the_ended_run_at_its_last_epoch_once(output: Path) -> None:
    folder = make_folder(output, "measured later")
    events = four_trials()
    write(folder, events)
    sync(folder)
    before = Stored(folder)
    at = events[-1].at + 5
    write(folder, [measured(at, forget__fluency=2.5, relearned__forget_probability=0.25)])
    done = sync(folder)
    after = Stored(folder)
    assert (done.sent, done.points) == (1, 2 + (len(before.all_points()) - 7 * 4))  # the parent's are sent each time
    assert set(after.all_points()) - set(before.all_points()) == {
        ("00000", "forget/fluency", 2.5, 3, round(at * 1000)),
        ("00000", "relearned/forget_probability", 0.25, 3, round(at * 1000)),
    }
    run = after.children["00000"]
    assert (run.info.status, run.data.tags["measured"], run.data.tags["epoch"]) == ("FINISHED", "true", "3")
    assert run.info.end_time == before.children["00000"].info.end_time
    assert "measured" not in after.children["00001"].data.tags
    assert sync(folder).sent == 0
    again = Stored(folder)
    assert sorted(again.all_points()) == sorted(after.all_points())
    assert again.runs == 7


def test_a_store_that_has_nothing_yet_gets_trials_and_measurements_together(output: Path) -> None:
    folder = make_folder(output, "measured at once")
    events = four_trials()
    write(folder, [*events, measured(events[-1].at + 5, forget__fluency=2.5)])
    assert [sync(folder).sent for _ in range(2)] == [4, 0]
    run = Stored(folder).children["00000"]
    assert (run.info.status, run.data.metrics["forget/fluency"], run.data.tags["state"]) == (
        "FINISHED",
        2.5,
        "COMPLETE",
    )


def test_a_measurement_that_failed_is_a_tag_until_it_succeeds(output: Path) -> None:
    folder = make_folder(output, "measured in vain")
    events = four_trials()
    at = events[-1].at
    write(folder, [*events, measured(at + 5, failure=f"OutOfMemory: see http://user:{SECRET}@host")])
    assert sync(folder).sent == 4
    tags = Stored(folder).children["00000"].data.tags
    assert (tags["measured"], tags["state"]) == ("OutOfMemory: see http://***@host", "COMPLETE")
    assert "failure" not in tags
    assert sync(folder).sent == 0
    write(folder, [measured(at + 9, forget__fluency=2.5)])
    assert [sync(folder).sent for _ in range(2)] == [1, 0]
    run = Stored(folder).children["00000"]
    assert (run.data.tags["measured"], run.data.metrics["forget/fluency"]) == ("true", 2.5)


@pytest.mark.parametrize("calls", [0, 1])
def test_a_measurement_of_which_only_part_arrived_is_sent_once(output: Path, calls: int) -> None:
    folder = make_folder(output, f"measured, died after {calls} calls")
    events = four_trials()
    write(folder, events)
    sync(folder)
    many = {f"part__m{n}": float(n) for n in range(1000)}  # more than a batch
    write(folder, [measured(events[-1].at + 5, **many)])
    store = Store(folder, resolve_uri(output, None))
    store.client = Dying(store.client, calls)  # type: ignore[assignment]
    for event in read_events(folder):
        store.take(event)
    with pytest.raises(ConnectionError, match="died here"):
        store.flush()
    assert "measured" not in Stored(folder).children["00000"].data.tags
    assert sync(folder).sent == 1
    found = [key for who, key, *_ in Stored(folder).all_points() if who == "00000" and key.startswith("part/")]
    assert sorted(found) == sorted(f"part/m{n}" for n in range(1000))


def test_what_is_measured_while_the_tracker_runs_is_sent(output: Path) -> None:
    folder = make_folder(output, "measured live")
    events = four_trials()
    write(folder, events[:-1])
    tracker = Tracker(folder)
    ledger = Ledger(folder)
    ledger.listen(tracker)
    ledger.append(events[-1])
    assert tracker.flush(60.0)
    ledger.append(measured(events[-1].at + 5, forget__fluency=2.5))
    ledger.close()
    assert tracker.finish(60.0)
    stored = Stored(folder)
    assert stored.children["00000"].data.tags["measured"] == "true"
    assert len([key for _, key, *_ in stored.all_points() if key == "forget/fluency"]) == 1
    assert sync(folder).sent == 0


def test_a_dead_server_neither_delays_the_driver_nor_ends_it(
    output: Path, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(output, "server gone")
    tracker = Tracker(folder, f"http://user:{SECRET}@127.0.0.1:{closed_port}")
    ledger = Ledger(folder)
    ledger.listen(tracker)
    begin = time.perf_counter()
    for event in four_trials():
        tracker(event)
    assert time.perf_counter() - begin < 0.1
    for event in four_trials():
        ledger.append(event)
    begin = time.perf_counter()
    assert not tracker.finish(20.0)
    assert time.perf_counter() - begin < 5.0
    ledger.close()
    assert sync(folder).sent == 4
    assert Stored(folder).runs == 7
    assert SECRET not in caplog.text


def test_the_tracker_says_once_that_the_server_is_gone(
    output: Path, closed_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.tracking.tracker._INTERVAL", 0.01)
    monkeypatch.setattr("orchestrator.tracking.tracker._LONGEST_PAUSE", 0.01)
    folder = make_folder(output, "says once")
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(folder, f"http://user:{SECRET}@127.0.0.1:{closed_port}")
        deadline = time.monotonic() + 10.0
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        assert not tracker.finish(10.0)
    assert [record.getMessage().count("unlearn-sweep sync") for record in caplog.records] == [1]
    assert SECRET not in caplog.text


def test_a_server_that_hangs_does_not_hold_up_the_end(output: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        folder = make_folder(output, "hangs")
        tracker = Tracker(folder, f"http://127.0.0.1:{server.getsockname()[1]}")
        begin = time.perf_counter()
        assert not tracker.finish(1.0)
        assert time.perf_counter() - begin < 3.0


def test_credentials_reach_neither_tags_nor_parameters_nor_artifacts(output: Path) -> None:
    uri = f"http://user:{SECRET}@example.org:5000/path"
    config = {"tracking": {"uri": uri}, "note": f"see {uri}"}
    folder = make_folder(output, "secret", config=config, tracking_uri=uri)
    (folder / "sweep.yaml").write_text(f"tracking: {{uri: '{uri}'}}", encoding="utf-8")
    failed = Ended(trial_id="00000", state="FAIL", epoch=0, failure=f"cannot reach {uri}", at=2.0)
    write(folder, [a_suggestion(0, 1.0, f"from {uri}", source=uri), failed])
    sync(folder, resolve_uri(output, None))
    stored = Stored(folder)
    runs = [*stored.parents, *stored.children.values()]
    assert "***@example.org" in stored.children["00000"].data.tags["failure"]
    assert SECRET not in json.dumps([run.to_dictionary() for run in runs])
    artifacts = output / "mlartifacts" / "tofu_forget10" / stored.parents[0].info.run_id / "artifacts"
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    assert {"sweep.yaml", "sweep.json"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_sync_that_cannot_reach_its_server_says_so_without_the_password(output: Path, closed_port: int) -> None:
    folder = make_folder(output, "unreachable")
    with pytest.raises(TrackingError, match=r"does not answer.*start it") as caught:
        sync(folder, f"http://user:{SECRET}@127.0.0.1:{closed_port}")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_sync_to_a_server_that_is_none_says_what_to_do_next(output: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, but long enough to be looked at" * 50)
    with pytest.raises(TrackingError, match=r"did not take the records .*unlearn-sweep sync"):
        sync(make_folder(output, "no database"), f"sqlite:///{tmp_path}/mlflow.db")


def test_links_point_at_the_runs_of_the_sweep(synced: Path) -> None:
    links = ui_links(synced, "http://127.0.0.1:5000/")
    stored = Stored(synced)
    assert list(links) == ["all trials", "charts by epoch", "sweep"]  # one trial on the front: nothing to compare
    assert links["sweep"].startswith(f"http://127.0.0.1:5000/#/experiments/{stored.experiment.experiment_id}/runs/")
    assert stored.parents[0].info.run_id in links["sweep"]
    key = parse_qs(links["all trials"].partition("?")[2])["viewStateShareKey"][0]
    assert f"mlflow.sharedViewState.{key}" in stored.experiment.tags


def test_links_of_a_sweep_that_was_never_sent_name_the_remedy(output: Path, synced: Path) -> None:
    with pytest.raises(TrackingError, match="has no sweep 'never sent'; send it with `unlearn-sweep sync"):
        ui_links(make_folder(output, "never sent"), "http://127.0.0.1:5000")


def test_the_environment_wins_over_the_sweep_and_the_sweep_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_uri(tmp_path, None) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    assert resolve_uri(tmp_path, "http://a") == "http://a"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b")
    assert resolve_uri(tmp_path, "http://a") == "http://b"


def test_a_relative_output_folder_gives_an_absolute_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(Path("runs"), None) == f"sqlite:///{tmp_path.resolve()}/runs/mlflow.db"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("file:///somewhere/mlruns", "a folder, which MLflow 3 refuses; write sqlite"),
        ("mlruns", "a folder, which MLflow 3 refuses; write sqlite"),
        ("sqlite://", "names no file"),
        ("sqlite:////does/not/exist/mlflow.db", "does not exist, and sqlite makes none; make it"),
        ("sqlite:////some/a?b/mlflow.db", "which no sqlite URI can carry"),
        (f"http://user:{SECRET}@127.0.0.1:notaport", "does not answer"),
    ],
)
def test_a_store_that_cannot_be_written_is_named_with_its_remedy(uri: str, problem: str) -> None:
    found = check_reachable(uri)
    assert found is not None
    assert problem in found
    assert SECRET not in found


def test_a_port_nobody_listens_on_is_found_within_a_second(closed_port: int) -> None:
    begin = time.perf_counter()
    problem = check_reachable(f"http://user:{SECRET}@127.0.0.1:{closed_port}")
    assert time.perf_counter() - begin < 2.0
    assert problem is not None
    assert "does not answer" in problem
    assert SECRET not in problem


def test_stores_that_answer_are_no_problem(tmp_path: Path) -> None:
    assert check_reachable(resolve_uri(tmp_path, None)) is None
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert check_reachable(f"http://127.0.0.1:{server.getsockname()[1]}") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "is read-only" in str(check_reachable(resolve_uri(tmp_path, None)))
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:p@h/db", "postgresql://***@h/db"),
        ("http://u:p@ss@h:5000 and http://h2", "http://***@h:5000 and http://h2"),
        ('{"a": "http://h", "mail": "me@h"}', '{"a": "http://h", "mail": "me@h"}'),
    ],
)
def test_redaction_takes_the_credentials_and_nothing_else(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, "swept")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(TrackingError, match=f"port {port} cannot be used .*take another one with --port"):
            serve_ui(tmp_path, port)


def test_a_report_needs_no_store_and_a_sync_beside_a_running_sweep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    folder = make_folder(tmp_path, "swept")
    write(folder, four_trials())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    view_verbs.report(folder)
    assert (folder / "report.md").exists()
    ledger = Ledger(folder)
    with pytest.raises(ConfigError, match="the sweep is running"):
        view_verbs.sync(folder)
    ledger.close()
