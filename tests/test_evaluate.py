"""Evaluation as a whole: what is looked at, how often, and what the numbers may not depend on."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from trials.benchmarks import Benchmark, load_benchmark
from trials.config import Evaluation
from trials.encoding import Padding
from trials.evaluate import Evaluator
from trials.logs import EvalLog, References
from trials.material import Material
from trials.models import Workspace, load_model, workspace
from trials.naming import GROUPS, named, with_inputs
from trials.registry import METRICS, RowMetric
from trials.sources import TofuConfig

ONE_PASS = named(GROUPS["one_pass"])


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def warm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with tiny.cold():
        yield workspace(tiny.trial(tiny.saved_model(tmp_path_factory.mktemp("m"), request.param)))


def copied(warm: Workspace, benchmark: Benchmark | None = None, side: Any = "right") -> Material:
    made = warm.material
    padding = Padding(made.padding.token, side=side)
    return Material(made.tokenizer, benchmark or made.benchmark, made.prompt, padding, made.device, made.ends)


def counted(model: torch.nn.Module, run: Any) -> int:
    """Sequences that a model passes meanwhile."""
    passed: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: passed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    run()
    handle.remove()
    return sum(passed)


def distinct(material: Material, names: list[str]) -> int:
    """Sequences that row metrics look at, each counted once."""
    rows = {
        (name.split(".")[0], part) for name in names if isinstance(m := METRICS[name], RowMetric) for part in m.sees
    }
    return len(
        {
            example
            for group, part in rows
            if group in material.sets and part != "z"
            for examples in material.part(group, part)
            for example in examples
        }
    )


def test_all_one_pass_metrics_together_pass_each_distinct_sequence_once(warm: Workspace) -> None:
    evaluator = Evaluator(copied(warm))
    evaluator.log(warm.reference, ["forget.nll"])  # a model's head is tried on one row, once
    log: list[EvalLog] = []
    passed = counted(warm.reference, lambda: log.append(evaluator.log(warm.reference, ONE_PASS)))
    assert passed == distinct(evaluator.material, with_inputs(ONE_PASS))
    assert len(log[0].values) > 60
    apart: dict[str, float] = {}
    for name in ("forget.extraction_strength", "members.min_k_plus_plus", "retain.truthfulness", "privacy.loss"):
        apart[name] = evaluator.log(warm.reference, [name]).values[name]
    assert apart == pytest.approx({name: log[0].values[name] for name in apart}, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_whole_evaluation_of_tofu_passes_each_distinct_sequence_once(tofu: Path, tmp_path: Path) -> None:
    config = TofuConfig(path=str(tofu), split="forget10")
    with tiny.cold():
        trial = tiny.trial(tiny.saved_model(tmp_path / "m"))
        warm = workspace(trial.model_copy(update={"benchmark": config}))
        names = [name for name in named(("tofu", "privacy", "default")) if METRICS[name].cost == "one pass"]
        evaluator = Evaluator(warm.material)
        evaluator.log(warm.reference, ["forget.nll"])  # a model's head is tried on one row, once
        passed = counted(warm.reference, lambda: evaluator.log(warm.reference, names))
    # Rows of section 1.1 of the benchmark's card: answers, paraphrases and wrong ones, with and without the prompts.
    assert passed == distinct(evaluator.material, with_inputs(names))
    plain = [name for name in names if "extraction_strength_" not in name]
    # forget: 400 x (1 + 1 + 5), as many retain rows, 100 and 117 x (1 + 3), 400 holdout rows
    assert distinct(evaluator.material, with_inputs(plain)) <= 400 * 7 * 2 + 217 * 4 + 400


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("side", ["right", "left"])
def test_no_metric_depends_on_batch_size_or_padding_side(batch_size: int, side: str, warm: Workspace) -> None:
    names = named(("one_pass", "forget.rouge_l_recall", "general.repetition"))
    settings = Evaluation(max_new_tokens=8)
    expected = Evaluator(copied(warm), settings).log(warm.reference, names).values
    other = Evaluator(copied(warm, side=side), settings.model_copy(update={"batch_size": batch_size}))
    found = other.log(warm.reference, names).values
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_no_metric_depends_on_the_order_of_rows_or_on_how_they_are_shared_out(warm: Workspace) -> None:
    names = named(("one_pass",))
    expected = Evaluator(copied(warm)).log(warm.reference, names)
    benchmark = warm.benchmark
    shuffled = list(benchmark.forget)
    random.Random(0).shuffle(shuffled)
    turned = replace(benchmark, forget=tuple(shuffled), retain=benchmark.retain[::-1], holdout=benchmark.holdout[::-1])
    found = Evaluator(copied(warm, turned)).log(warm.reference, names).values
    for name, value in expected.values.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    # As two devices would: each takes half of the rows of the forget set.
    parts = (benchmark.forget[:3], benchmark.forget[3:])
    halves = [Evaluator(copied(warm), forget=part).log(warm.reference, ["forget.nll"]) for part in parts]
    together = [value for half in halves for value in half.rows["forget.nll"]]
    assert together == pytest.approx(expected.rows["forget.nll"].tolist(), abs=1e-6)


def test_a_metric_without_its_reference_or_its_set_is_absent_and_never_0(warm: Workspace) -> None:
    log = Evaluator(copied(warm)).log(
        warm.reference, named(("tofu.forget*", "privacy.priv*", "verbmem.*", "*.accuracy"))
    )
    assert set(log.values) >= {"privacy.privleak_half", "forget.wrong_over_right"}
    assert not {"tofu.forget_quality", "privacy.privleak"} & set(log.values)
    assert not [name for name in log.values if name.startswith(("verbmem", "wmdp", "mmlu"))]


def test_a_model_compared_with_its_own_log_is_the_retain_model(warm: Workspace) -> None:
    names = named(("tofu.forget_quality", "privacy.privleak", "privacy.closeness_min_k"))
    own = Evaluator(copied(warm)).log(warm.reference, names)
    log = Evaluator(copied(warm), references=References(retain=own)).log(warm.reference, names)
    assert log.values["tofu.forget_quality"] == 1.0
    assert log.values["privacy.privleak"] == pytest.approx(0.0)
    assert log.values["privacy.closeness_min_k"] == pytest.approx(1.0)


def test_a_part_of_the_forget_set_is_not_compared_with_logs_of_the_whole(warm: Workspace) -> None:
    names = named(("tofu.forget_quality", "privacy.privleak", "forget.nll", "retain.nll"))
    own = Evaluator(copied(warm)).log(warm.reference, names)
    part = warm.benchmark.forget[:3:2]
    log = Evaluator(copied(warm), references=References(retain=own), forget=part).log(warm.reference, names)
    assert not {"tofu.forget_quality", "privacy.privleak"} & set(log.values)
    assert len(log.rows["forget.nll"]) == len(log.rows["members.min_k"]) == 2
    assert log.values["forget.nll"] == pytest.approx(own.rows["forget.nll"][[0, 2]].mean())
    assert log.values["retain.nll"] == pytest.approx(own.values["retain.nll"])


def test_a_model_that_is_nan_gives_nan_and_no_error(warm: Workspace) -> None:
    broken = load_model(warm.reference.name_or_path, tiny.trial(Path(warm.reference.name_or_path)).model)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(math.nan)
    values = (
        Evaluator(copied(warm))
        .log(broken, named(("forget.nll", "privacy.loss", "tofu.model_utility_likelihood")))
        .values
    )
    assert all(math.isnan(values[name]) for name in ("forget.nll", "privacy.loss", "tofu.model_utility_likelihood"))


def test_sets_that_no_metric_asks_for_are_not_even_encoded(warm: Workspace) -> None:
    material = copied(warm)
    Evaluator(material).log(warm.reference, ["forget.nll"])
    assert set(material._units) == {"forget"}
    assert set(material._parts) == {("forget", "answer")}


def test_the_embedded_benchmark_has_what_the_metrics_of_tofu_look_at() -> None:
    benchmark = load_benchmark(tiny.AUTHORS)
    assert {"forget", "retain", "holdout", "general", "members", "nonmembers"} == set(benchmark.evaluated)
