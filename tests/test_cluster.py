"""A sweep on a real Ray cluster of several nodes, while nodes, workers, drivers and the tracking server are killed."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.ledger import read_records
from orchestrator.results.front import front_of
from tests import clusters
from tests.clusters import cluster, cluster_sweep, ended, waited
from tests.simulate import simulate

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_sweep_survives_a_lost_node_worker_driver_and_tracking_server(tmp_path: Path) -> None:
    sweep, folder = cluster_sweep(), tmp_path / "small"
    with cluster(tmp_path, seconds=0.05) as here:
        clusters.hold(folder, 0)
        here.start_server()
        driver = here.start_driver(sweep, "held")

        def stand(count: int) -> None:
            waited(lambda: len(clusters.held(folder)) >= count or driver.poll() is not None, f"{count} trials to wait")
            assert driver.poll() is None, here.said()[-3000:]

        stand(6)
        assert len(clusters.nodes_of(folder)) == 3, "two trials on each node"
        here.lose_server()
        here.lose_node(here.nodes[-1])
        clusters.hold(folder, 6)
        waited(lambda: ended(folder) == 6, "the trials of the lost node to go on elsewhere")
        stand(4)
        assert clusters.kill_worker(folder)
        here.start_server()
        clusters.hold(folder, 16)
        waited(lambda: ended(folder) >= 10, "the trials on other workers to go on")
        stand(4)
        driver.send_signal(signal.SIGKILL)
        driver.wait(30)
        here.lose_server()
        clusters.hold(folder, 24)
        driver = here.start_driver(sweep, "held")
        waited(lambda: ended(folder) >= 18, "a new driver to take the sweep up")
        here.start_server()
        assert driver.wait(240) == 0, here.said()[-3000:]
        assert trials_tracked(here.environment["MLFLOW_TRACKING_URI"], folder) == {"FINISHED": 24}
    found = read_records(folder)
    assert sorted(record.trial_id for record in found) == [f"{number:05d}" for number in range(24)]
    assert clusters.wrong_states(folder, sweep) == []
    why = Counter(why for record in found for why in record.resumed)
    assert why["node"] + why["worker"] == 3, "Ray may tell the loss of a worker before it knows of that of its node"
    assert why["driver"] >= 4
    assert not why["error"]
    # At most the running epoch of whoever was hit is run again.
    again, times = clusters.run_again(folder), {record.trial_id: len(record.resumed) for record in found}
    assert all(again[trial_id] <= times[trial_id] for trial_id in times)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    simulate(sweep, undisturbed, workers=1).close()

    def front(place: Path) -> list[tuple[str, dict[str, float]]]:
        return sorted((each.trial_id, each.metrics) for each in front_of(read_records(place), sweep.objectives))

    assert front(folder) == front(undisturbed)


def test_a_node_with_a_broken_gpu_is_set_aside_and_its_trials_go_on_elsewhere(tmp_path: Path) -> None:
    # Slots on both nodes from the beginning: Ray gives a trial to whoever is free first.
    changes = {"budget": {"trials": 14, "concurrent": 4}, "resources": {"cpu": 1, "gpu": 0.25, "retries": 0}}
    sweep, folder = cluster_sweep(**changes), tmp_path / "small"
    with cluster(tmp_path, nodes=2, seconds=0.2) as here:
        driver = here.start_driver(sweep, "breaks_a_node")
        assert driver.wait(240) == 0, here.said()[-3000:]
        said = here.said()
    bad = (folder / "bad").read_text()
    words = f"node {bad[:12]} is set aside: the last 5 trials there all failed alike: RuntimeError: CUDA error: uncorre"
    assert words in said
    found = read_records(folder)
    assert len(found) == 14
    assert clusters.wrong_states(folder, sweep) == []
    assert sum(record.resumed == ("node",) for record in found) >= 5
    assert bad not in clusters.nodes_of(folder)


def trials_tracked(uri: str, folder: Path) -> Counter[str]:
    """Status -> trials that the tracking server has, once all has been sent; no trial twice."""
    from mlflow import MlflowClient

    from orchestrator.tracking.tracker import sync

    sync(folder, uri)
    client = MlflowClient(uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = [run for run in client.search_runs(ids, max_results=1000) if "trial_id" in run.data.tags]
    assert len({run.data.tags["trial_id"] for run in runs}) == len(runs)
    return Counter(run.info.status for run in runs)
