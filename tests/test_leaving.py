"""A node that is given notice, and the loss of the head, on a real Ray cluster of processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from orchestrator.ledger import read_records
from orchestrator.search.faults import LEAVING, node_of
from tests import clusters
from tests.clusters import cluster, cluster_sweep, ended, waited

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.mark.parametrize("notice", ["drained", "terminated"])
def test_on_a_node_that_is_to_be_taken_away_trials_go_on_to_the_end_and_none_begins(
    tmp_path: Path, notice: str
) -> None:
    sweep, folder = cluster_sweep(12, resources={"cpu": 1, "gpu": 0.25, "losses": 1, "retries": 0}), tmp_path / "small"
    with cluster(tmp_path, nodes=1, seconds=0.05) as here:
        here.add_node(RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="120")
        clusters.hold(folder, 0)
        driver = here.start_driver(sweep, "held")

        def stand(count: int) -> None:
            waited(lambda: len(clusters.held(folder)) >= count or driver.poll() is not None, f"{count} trials to wait")
            assert driver.poll() is None, here.said()[-3000:]

        stand(4)
        where = {trial: node_of(folder / "trials" / trial) for trial in clusters.held(folder)}
        leaving = next(where[trial] for trial in where if here.runs(clusters.running(folder)[trial]) == here.nodes[-1])
        there = sorted(trial for trial, node in where.items() if node == leaving)
        assert len(there) == 2
        if notice == "drained":
            here.drain_node(leaving, 120)
        else:  # as a machine that shuts down, or Kubernetes, does it
            here.nodes[-1].send_signal(signal.SIGTERM)
        clusters.hold(folder, int(there[1]))  # of the two, one ends; the other is still at it when the node goes
        waited(lambda: ended(folder) == int(there[1]), "the trials below it to end")
        waited(lambda: len(clusters.held(folder)) == 3, "new ones to begin on the other node, and there only")
        here.lose_node(here.nodes[-1])
        clusters.hold(folder, 99)
        assert driver.wait(120) == 0, here.said()[-3000:]
    found = {record.trial_id: record for record in read_records(folder)}
    assert len(found) == 12
    assert clusters.wrong_states(folder, sweep) == []
    assert {trial: record.resumed for trial, record in found.items() if record.resumed} == {there[1]: ("node",)}
    assert [trial.name for trial in folder.glob("trials/*") if node_of(trial) == leaving] == there[:1]
    assert any(LEAVING in log.read_text(encoding="utf-8") for log in folder.glob("trials/*/log.txt"))
    assert clusters.run_again(folder)[there[1]] <= 1
