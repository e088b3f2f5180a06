"""Importance of parameters, and ablations paired by seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from orchestrator.results.effects import ablations
from orchestrator.results.importance import importance
from tests.summaries import FORGET, RETAIN, Sweep

SPACE = {
    "loss.criterion": {"one_of": {"satimp": {"beta1": {"float": [0.0, 1.0]}}, "npo": {"beta": {"float": [0.0, 1.0]}}}},
    "optim.lr": {"float": [1e-5, 1e-3], "log": True},
}


def _searched(count: int, seed: int = 0) -> Sweep:
    """A sweep in which the learning rate alone decides who is good: both objectives fall with its logarithm."""
    rng = np.random.default_rng(seed)
    sweep = Sweep(space=SPACE)
    for _ in range(count):
        kind, name = (("satimp", "beta1"), ("npo", "beta"))[int(rng.integers(2))]
        power, beta = float(rng.uniform(-5, -3)), float(rng.uniform(0, 1))
        params = {"loss.criterion.type": kind, f"loss.criterion.{name}": beta, "optim.lr": 10**power}
        settings = {"loss": {"criterion": {"type": kind, name: beta}}, "optim": {"lr": 10**power}}
        off = abs(power + 4) / 2
        tilt = float(rng.uniform(0, 0.3))
        sweep.trial(off + tilt, 1 - off - (0.3 - tilt), params=params, settings=settings)
    return sweep


def test_the_parameter_that_decides_has_the_largest_share() -> None:
    found = importance(_searched(200).summary)
    assert found is not None
    assert next(iter(found.shares)) == "optim.lr"
    assert found.shares["optim.lr"] > 0.6
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert set(found.shares) == {"loss.criterion.type", "loss.criterion.beta1", "loss.criterion.beta", "optim.lr"}
    assert (found.trials, found.best) == (200, 20)


def test_what_fails_or_is_stopped_for_a_value_makes_its_parameter_matter() -> None:
    rng = np.random.default_rng(1)
    sweep = Sweep(space={"optim.lr": {"float": [0.0, 1.0]}, "loss.granularity": {"choice": ["token", "instance"]}})
    for number in range(80):
        rate = float(rng.uniform())
        kind = ("token", "instance")[number % 2]
        settings = {"optim": {"lr": rate}, "loss": {"granularity": kind}}
        state: Any = "FAIL" if kind == "token" else "COMPLETE"
        params = {"optim.lr": rate, "loss.granularity": kind}
        sweep.trial(float(rng.uniform()), float(rng.uniform()), state=state, settings=settings, params=params)
    found = importance(sweep.summary)
    assert found is not None
    assert next(iter(found.shares)) == "loss.granularity"


def test_importance_looks_at_so_many_trials_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.results.importance.MOST", 60)
    found = importance(_searched(150).summary)
    assert found is not None
    assert (found.trials, found.best) == (60, 6)


def test_importance_is_not_told_of_few_trials_or_of_none_that_is_searched() -> None:
    assert importance(_searched(19).summary) is None
    assert importance(Sweep().summary) is None
    stopped = Sweep(space={"optim.lr": {"float": [0.0, 1.0]}})
    for _ in range(30):
        stopped.trial(0.5, 0.5, state="PRUNED", params={"optim.lr": 0.5}, settings={"optim": {"lr": 0.5}})
    assert importance(stopped.summary) is None


def test_the_same_records_give_the_same_importance() -> None:
    assert importance(_searched(60).summary) == importance(_searched(60).summary)


# -- ablations ---------------------------------------------------------------------------------------------------------


def _phases(design: str, **values: Any) -> dict[str, Any]:
    return {"phases": [{"sampler": {"type": "tpe"}}, {"sampler": {"type": "ablation", "design": design, **values}}]}


def _ablation(sweep: Sweep, design: str, *points: tuple[float, float], **more: Any) -> None:
    """A design with seeds 0, 1, ..."""
    first = None
    for seed, point in enumerate(points):
        trial_id = sweep.trial(*point, origin="ablation", phase=1, design=design, seed=seed, of=first, **more)
        first = first or trial_id


def test_deltas_are_paired_by_seed() -> None:
    sweep = Sweep(**_phases("one_factor"))
    _ablation(sweep, "base", (0.2, 0.8), (0.4, 0.6), (0.6, 0.7))
    _ablation(sweep, "loss.granularity = instance", (0.1, 0.8), (0.2, 0.8), (0.3, 0.7))
    (table,) = ablations(sweep.summary)
    assert (table.phase, table.design, table.base, table.metrics) == (1, "one_factor", "base", [FORGET, RETAIN])
    base, row = table.rows
    assert (base.design, base.delta) == ("base", {})
    assert base.mean == pytest.approx({FORGET: 0.4, RETAIN: 0.7})
    delta = row.delta[FORGET]  # of 0.1, 0.2 and 0.3: the noise that seeds share is gone
    assert (delta.mean, delta.pairs, delta.agree) == (pytest.approx(-0.2), 3, 3)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)
    assert (delta.low, delta.high) == pytest.approx((-0.2 - half, -0.2 + half))
    assert row.delta[RETAIN].agree == 1


def test_one_seed_has_a_difference_and_no_interval() -> None:
    sweep = Sweep(**_phases("leave_one_out"))
    _ablation(sweep, "base", (0.2, 0.8))
    _ablation(sweep, "without loss.granularity", (0.5, 0.8))
    delta = ablations(sweep.summary)[0].rows[1].delta[FORGET]
    assert (delta.mean, delta.low, delta.high, delta.pairs) == (pytest.approx(0.3), None, None, 1)


def test_what_failed_or_runs_on_is_shown_and_pairs_nothing() -> None:
    sweep = Sweep(**_phases("one_factor"))
    _ablation(sweep, "base", (0.2, 0.8), (0.4, 0.6))
    _ablation(sweep, "optim.lr = 1", (0.9, 0.1), (0.9, 0.1), state="FAIL")
    _ablation(sweep, "optim.lr = 0.1", (0.3, 0.7), (0.9, 0.1), state=None)
    rows = ablations(sweep.summary)[0].rows
    assert rows[1].counts == {"COMPLETE": 0, "PRUNED": 0, "FAIL": 2}
    assert (rows[1].mean, rows[1].delta, len(rows[1].runs)) == ({}, {}, 2)
    assert (rows[2].running, rows[2].runs) == (2, [])


def test_a_few_other_metrics_stand_beside_the_objectives() -> None:
    sweep = Sweep(**_phases("one_factor"))
    sweep.anchor("target", 1.0, 1.0, **{f"forget__m{n}": 0.5 for n in range(6)})
    others = {f"forget.m{n}": 0.1 * n for n in range(6)} | {"aside": 1.0}
    _ablation(sweep, "base", (0.2, 0.8), others=others)
    (table,) = ablations(sweep.summary)
    assert table.metrics == [FORGET, RETAIN, "forget.m0", "forget.m1", "forget.m2", "forget.m3"]


def test_a_factorial_has_main_effects() -> None:
    sweep = Sweep(**_phases("factorial", values={"a": [1, 2], "b": [1, 2]}))
    for a in (1, 2):
        for b in (1, 2):
            values = [(0.1 * a + 0.01 * b + 0.2 * seed, 0.5) for seed in range(2)]
            _ablation(sweep, f"a = {a}, b = {b}", *values, settings={"a": a, "b": b}, params={"a": a, "b": b})
    (table,) = ablations(sweep.summary)
    assert table.base == "a = 1, b = 1"
    effects = {(effect.path, effect.value): effect.delta[FORGET] for effect in table.effects}
    assert {key: delta.mean for key, delta in effects.items()} == pytest.approx(
        {("a", 1): -0.05, ("a", 2): 0.05, ("b", 1): -0.005, ("b", 2): 0.005}
    )
    assert effects["a", 1].pairs == 2
    assert (effects["a", 1].low, effects["a", 1].high) == pytest.approx((-0.05, -0.05))


def test_a_factorial_without_a_combination_has_effects_of_whole_seeds_only() -> None:
    """Means over what is left would call one factor's effect another's."""
    sweep = Sweep(**_phases("factorial", values={"a": [1, 2], "b": [1, 2]}))
    for a in (1, 2):
        for b in (1, 2):
            seeds = 1 if (a, b) == (2, 2) else 2  # the second seed of one has not run
            values = [(0.1 * a + 0.2 * b, 0.5)] * seeds
            _ablation(sweep, f"a = {a}, b = {b}", *values, settings={"a": a, "b": b}, params={"a": a, "b": b})
    (table,) = ablations(sweep.summary)
    effects = {(effect.path, effect.value): effect.delta[FORGET] for effect in table.effects}
    assert {key: delta.mean for key, delta in effects.items()} == pytest.approx(
        {("a", 1): -0.05, ("a", 2): 0.05, ("b", 1): -0.1, ("b", 2): 0.1}
    )
    assert {delta.pairs for delta in effects.values()} == {1}


def test_a_sweep_of_one_ablation_alone_is_told_too_and_others_have_no_table() -> None:
    alone = Sweep(sampler={"type": "ablation", "design": "paired"})
    alone.trial(0.2, 0.8, origin="ablation", phase=0, design="a = 1, b = 1")
    alone.trial(0.3, 0.8, origin="ablation", phase=0, design="a = 2, b = 2")
    (table,) = ablations(alone.summary)
    assert (table.design, table.base, table.effects) == ("paired", "a = 1, b = 1", [])
    assert table.rows[1].delta[FORGET].mean == pytest.approx(0.1)
    assert ablations(Sweep().summary) == []
