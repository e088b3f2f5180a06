"""A pack of trials: each member is its unpacked twin, whoever else is there, joins, leaves or fails."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trials.asking
import trials.lockstep
import trials.packing
import trials.passes
import trials.unlearn
from tests import tiny
from tests.tiny import numbers, run, saved
from trials.adapters import Adapter, Shared, batched, one_by_one
from trials.config import TrialConfig
from trials.models import workspace
from trials.packing import Pack
from trials.result import Diverged, EpochResult, OutOfMemory, TrialFailed


@pytest.fixture(scope="module", autouse=True)
def _cold() -> Iterator[None]:
    with tiny.cold():
        yield


@pytest.fixture(autouse=True)
def _all_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, however long the rows are."""
    monkeypatch.setattr(trials.lockstep, "CACHED", 10**9)
    monkeypatch.setattr(trials.asking, "PASS", 10**9)


@pytest.fixture(autouse=True)
def _none_breaks_off(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Else a pack that cannot share a pass would be its members' twin all the same: each would train by itself."""
    yield
    assert "broke off" not in caplog.text


def lora(rank: int = 2, **settings: Any) -> dict[str, Any]:
    return {"adapter": {"type": "lora", "rank": rank, **settings}}


SECTIONS: dict[str, dict[str, Any]] = {
    "satimp": {"model": lora(), "loss": {"criterion": {"type": "satimp", "beta1": 0.5}}, "seed": 1},
    "saturation": {
        "model": lora(4),
        "loss": {"criterion": {"type": "saturation", "beta1": 0.5}, "granularity": "batch"},
        "optim": {"lr": 3e-3, "clip": 1.0, "micro_batch_size": 3},
        "seed": 2,
    },
    "npo": {
        "model": lora(3, alpha=4.0),
        "loss": {"criterion": {"type": "npo", "beta": 0.3}, "selection": "random", "retain": {"coefficient": 0.5}},
        "optim": {"schedule": "linear", "weight_decay": 0.1},
        "seed": 3,
    },
    "kl": {
        "model": lora(),
        "loss": {"criterion": {"type": "npo"}, "retain": {"term": "kl"}},
        "optim": {"batch_size": 2},
    },
    "undial": {"model": lora(1), "loss": {"criterion": {"type": "undial"}, "retain": {"term": "kl"}}, "seed": 4},
    "rmu": {"model": lora(), "loss": {"criterion": {"type": "rmu"}, "retain": {"term": "activation"}}, "seed": 5},
    "kto": {"model": lora(2, targets=["q_proj"]), "loss": {"criterion": {"type": "kto"}}, "seed": 6},
    "dropout": {"model": lora(2, dropout=0.2), "seed": 7},
    "other": {"model": lora(), "loss": {"criterion": {"type": "simnpo"}}, "seed": 10},
    "fila": {"model": lora(init="fila"), "loss": {"criterion": {"type": "ihl"}}, "seed": 9},
    "uld": {"model": lora(), "loss": {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}},
}


def configs(llama: Path, names: str, **sections: Any) -> dict[str, TrialConfig]:
    return {name: tiny.trial(llama, **(SECTIONS[name] | sections)) for name in names.split()}


def twins(members: dict[str, TrialConfig], folder: Path) -> dict[str, list[EpochResult]]:
    """Of each member the results without a pack."""
    return {name: run(config, folder / "alone" / name) for name, config in members.items()}


def packed(members: dict[str, TrialConfig], folder: Path, pack: Pack | None = None) -> Pack:
    pack = pack or Pack(next(iter(members.values())))
    for name, config in members.items():
        assert pack.join(name, config, folder / "packed" / name) is None
    return pack


def fine(result: EpochResult | Exception) -> EpochResult:
    assert isinstance(result, EpochResult), result
    return result


def assert_twins(found: EpochResult | Exception, expected: EpochResult) -> None:
    assert (fine(found).epoch, fine(found).last) == (expected.epoch, expected.last)
    assert fine(found).metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-4)


def assert_saved_alike(folder: Path, names: str) -> None:
    for name in names.split():
        one, other = saved(folder / "alone" / name), saved(folder / "packed" / name)
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-4)


# -- a member is its twin ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    ["satimp", "satimp saturation", "satimp saturation npo", "kl undial rmu satimp", "kto satimp"],
)
def test_a_packed_trial_is_its_unpacked_twin(names: str, llama: Path, tmp_path: Path) -> None:
    members = configs(llama, names)
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    assert pack.alone == {}
    for epoch in range(2):
        results = pack.run_epoch()
        assert results.keys() == members.keys()
        for name, result in results.items():
            assert_twins(result, expected[name][epoch])
    assert_saved_alike(tmp_path, names)
    assert pack.run_epoch() == {}


def test_what_cannot_be_shared_runs_by_itself_and_says_why(llama: Path, tmp_path: Path) -> None:
    names = "dropout fila uld satimp npo"
    members = configs(llama, names, epochs=1)
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    assert set(pack.alone) == {"dropout", "fila", "uld"}
    for name, result in pack.run_epoch().items():
        assert_twins(result, expected[name][0])
    assert_saved_alike(tmp_path, names)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_every_architecture_can_be_packed(name: str, tmp_path: Path) -> None:
    members = configs(tiny.saved_model(tmp_path / "model", name), "satimp npo", epochs=1)
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    assert pack.alone == {}
    for member, result in pack.run_epoch().items():
        assert_twins(result, expected[member][0])


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # of peft, when it saves one
def test_one_with_an_adapter_on_the_head_runs_by_itself(tmp_path: Path) -> None:
    model = {"path": str(tiny.saved_model(tmp_path / "model", "phi")), **lora(targets=["lm_head", "q_proj"])}
    members = {str(seed): tiny.trial(tmp_path, model=model, seed=seed, epochs=1) for seed in (1, 2)}
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    assert set(pack.alone) == {"1", "2"}
    for member, result in pack.run_epoch().items():
        assert_twins(result, expected[member][0])


def test_attention_of_a_mixture_of_experts_can_be_packed(tmp_path: Path) -> None:
    model = {"path": str(tiny.saved_model(tmp_path / "model", "mixtral")), **lora(targets=["q_proj", "v_proj"])}
    members = {str(seed): tiny.trial(tmp_path, model=model, seed=seed, epochs=1) for seed in (1, 2)}
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    assert pack.alone == {}
    for member, result in pack.run_epoch().items():
        assert_twins(result, expected[member][0])


def test_metrics_that_need_more_than_a_pass_are_those_of_the_twin(llama: Path, tmp_path: Path) -> None:
    asked = [
        "forget.nll",
        "forget.rouge_l_recall",
        "privacy.gradient_norm",
        "privacy.min_k_plus_plus",
        "int8.forget_probability",
    ]
    members = configs(llama, "satimp npo", evaluation={"metrics": asked, "max_new_tokens": 8}, log_weights=True)
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    for epoch in range(2):
        for name, result in pack.run_epoch().items():
            assert fine(result).metrics.keys() == expected[name][epoch].metrics.keys()
            assert_twins(result, expected[name][epoch])


def test_members_share_their_passes(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    answer_ce = trials.asking.answer_ce

    def watch(model: Any, batch: Any) -> Any:
        calls.append(len(batch.input_BT))
        return answer_ce(model, batch)

    monkeypatch.setattr(trials.asking, "answer_ce", watch)
    packed(configs(llama, "satimp npo", epochs=1), tmp_path).run_epoch()
    assert calls == [16, 8]  # 4 and then 2 forget rows with partners, of two members


def test_on_a_cpu_as_many_share_a_pass_as_its_caches_hold(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = configs(llama, "satimp npo other", epochs=1, optim={"batch_size": 6})
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    tokens = [sum(len(each) for each in pack.warm.forget) + 6 * max(len(each) for each in pack.warm.pool)]
    monkeypatch.setattr(trials.lockstep, "CACHED", 2 * max(tokens))
    shared: list[int] = []
    passing = Shared.passing
    monkeypatch.setattr(
        Shared, "passing", lambda self, names, rows: shared.append(len(names)) or passing(self, names, rows)
    )
    for name, result in pack.run_epoch().items():
        assert_twins(result, expected[name][0])
    assert shared[0] == 2  # and the third by itself


@pytest.mark.parametrize("names", ["satimp npo other", "kl undial rmu satimp"])
def test_rows_of_similar_length_pass_together_and_nothing_changes(
    names: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = configs(llama, names, epochs=1, optim={"batch_size": 6})
    expected = twins(members, tmp_path)  # in one pass a step
    monkeypatch.setattr(trials.asking, "PASS", 1)
    sizes: list[int] = []
    one_pass = trials.asking.one_pass

    def watch(model: Any, batch: Any, asked: Any) -> Any:
        sizes.append(len(batch.input_BT))
        return one_pass(model, batch, asked)

    for module in (trials.asking, trials.lockstep):
        monkeypatch.setattr(module, "one_pass", watch)
    apart = {name: run(config, tmp_path / "apart" / name) for name, config in members.items()}
    for name, (result,) in apart.items():
        assert_twins(result, expected[name][0])
    assert len(sizes) > len(members)
    assert max(sizes) < 12
    sizes.clear()
    for name, result in packed(members, tmp_path).run_epoch().items():
        assert_twins(result, expected[name][0])
    assert len(sizes) > 1
    assert len(members) in sizes or max(sizes) % len(members) == 0


def test_members_share_passes_of_the_reference_model(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[bool, int]] = []
    one_pass = trials.asking.one_pass

    def watch(model: Any, batch: Any, asked: Any) -> Any:
        calls.append((asked.reference, len(batch.input_BT)))
        return one_pass(model, batch, asked)

    for module in (trials.asking, trials.lockstep):
        monkeypatch.setattr(module, "one_pass", watch)
    packed(configs(llama, "kl undial", epochs=1, optim={"batch_size": 6}), tmp_path).run_epoch()
    # 6 forget rows and 6 partners of each; of undial the reference model passes the forget rows too.
    assert sorted(calls) == [(False, 24), (True, 6), (True, 12)]


# -- who comes and goes ------------------------------------------------------------------------------------------------


def test_who_leaves_and_who_joins_does_not_disturb_the_others(llama: Path, tmp_path: Path) -> None:
    members = configs(llama, "satimp saturation npo undial", epochs=3)
    expected = twins(members, tmp_path)
    late = {"undial": members.pop("undial")}
    pack = packed(members, tmp_path)
    pack.run_epoch()
    pack.leave("saturation")
    packed(late, tmp_path, pack)
    for epoch in (1, 2):
        results = pack.run_epoch()
        assert results.keys() == {"satimp", "npo", "undial"}
        for name, result in results.items():
            assert_twins(result, expected[name][epoch - (name == "undial")])
    assert_twins(pack.run_epoch()["undial"], expected["undial"][2])
    assert_saved_alike(tmp_path, "satimp npo undial")


def test_one_that_diverges_leaves_and_the_others_never_notice(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = configs(llama, "satimp npo saturation")
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    pack.run_epoch()
    with torch.no_grad():
        pack._members["npo"].trial.parameters[0].fill_(torch.nan)
    results = pack.run_epoch()
    assert isinstance(results["npo"], Diverged)
    assert "train.forget_loss is nan in epoch 2, step 3" in str(results["npo"])
    for name in ("satimp", "saturation"):
        assert_twins(results[name], expected[name][1])
    pack.join("npo", members["npo"], tmp_path / "again")  # its place is free


def test_a_trial_goes_on_in_a_pack_and_from_a_pack(llama: Path, tmp_path: Path) -> None:
    members = configs(llama, "satimp npo", epochs=3)
    expected = twins(members, tmp_path)
    # The first epoch alone, the second in a pack, the third alone again.
    for name, config in members.items():
        stream = trials.unlearn.run_trial(config, folder=tmp_path / "packed" / name)
        next(stream)
        stream.close()
    pack = Pack(members["satimp"])
    for name, config in members.items():
        place = tmp_path / "packed" / name
        result = pack.join(name, config, place, place / "checkpoint")
        assert result is not None
        assert_twins(result, expected[name][0])
    for name, result in pack.run_epoch().items():
        assert_twins(result, expected[name][1])
    for name, config in members.items():
        place = tmp_path / "packed" / name
        again, end = run(config, place, resume_from=place / "checkpoint")
        assert_twins(again, expected[name][1])
        assert_twins(end, expected[name][2])
    assert_saved_alike(tmp_path, "satimp npo")


def test_a_pack_leaves_no_trace_in_the_weights_of_the_target_model(llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama)
    before = run(config, tmp_path / "before")
    pack = packed(configs(llama, "satimp fila", epochs=1), tmp_path)
    pack.run_epoch()
    for name in ("satimp", "fila"):
        pack.leave(name)
    warm = workspace(config)
    assert tiny.same(dict(warm.working.state_dict()), dict(warm.reference.state_dict()))
    assert numbers(run(config, tmp_path / "after")) == numbers(before)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [16, 8])
def test_a_pack_that_is_too_large_for_the_memory_starts_the_epoch_again_in_smaller_ones(
    most: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = configs(llama, "satimp npo saturation other")
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    pack.run_epoch()
    answer_ce = trials.asking.answer_ce

    def small(model: Any, batch: Any) -> Any:
        if len(batch.input_BT) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_ce(model, batch)

    monkeypatch.setattr(trials.asking, "answer_ce", small)
    results = pack.run_epoch()
    for name in members:
        assert_twins(results[name], expected[name][1])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("a bug")])
def test_an_epoch_that_breaks_off_while_it_is_measured_is_repeated_by_nobody_who_had_ended_it(
    error: Exception, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    members = configs(llama, "satimp npo saturation other")
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    end_epoch, ended = trials.unlearn.Trial.end_epoch, []

    def once(self: Any, losses: Any, started: float) -> EpochResult:
        ended.append(self.config.seed)
        if len(ended) == 3:
            raise error
        return end_epoch(self, losses, started)

    monkeypatch.setattr(trials.unlearn.Trial, "end_epoch", once)
    for epoch in range(2):
        results = pack.run_epoch()
        for name in members:
            assert_twins(results[name], expected[name][epoch])
    assert len(ended) == 9
    assert ("broke off" in caplog.text) == isinstance(error, ValueError)
    caplog.clear()
    assert_saved_alike(tmp_path, "satimp npo saturation other")


def test_a_fault_of_one_member_is_nobody_elses(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    members = configs(llama, "satimp npo other")
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    lay_out = trials.passes.Passes.lay_out

    def broken(self: Any, epoch: int, rows: Any) -> Any:
        if self.config.seed == members["npo"].seed:
            raise ValueError("a bug")
        return lay_out(self, epoch, rows)

    monkeypatch.setattr(trials.passes.Passes, "lay_out", broken)
    results = pack.run_epoch()
    assert "broke off" in caplog.text
    caplog.clear()
    assert str(results["npo"]) == "a bug"
    for name in ("satimp", "other"):
        assert_twins(results[name], expected[name][0])
    assert pack.run_epoch().keys() == {"satimp", "other"}


def test_who_is_not_asked_for_an_epoch_waits(llama: Path, tmp_path: Path) -> None:
    members = configs(llama, "satimp npo other")
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    assert pack.run_epoch(["npo", "satimp"]).keys() == {"npo", "satimp"}
    results = pack.run_epoch()
    assert_twins(results["other"], expected["other"][0])
    assert_twins(results["npo"], expected["npo"][1])


def test_one_that_needs_too_much_memory_even_alone_fails_by_itself(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = configs(llama, "satimp npo")
    members["large"] = tiny.trial(llama, model=lora(), optim={"batch_size": 6})
    expected = twins(members, tmp_path)
    pack = packed(members, tmp_path)
    answer_ce = trials.asking.answer_ce

    def small(model: Any, batch: Any) -> Any:
        if len(batch.input_BT) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_ce(model, batch)

    monkeypatch.setattr(trials.asking, "answer_ce", small)
    results = pack.run_epoch()
    assert isinstance(results["large"], OutOfMemory)
    for name in ("satimp", "npo"):
        assert_twins(results[name], expected[name][0])


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_only_adapters_on_the_same_model_and_rows_fit_a_pack(llama: Path, tmp_path: Path) -> None:
    pack = packed(configs(llama, "satimp"), tmp_path)
    with pytest.raises(ValueError, match="no LoRA adapter"):
        pack.join("full", tiny.trial(llama), tmp_path)
    with pytest.raises(ValueError, match="another model or benchmark"):
        pack.join("other", tiny.trial(llama, model=lora(), benchmark={"seed": 7}), tmp_path)
    with pytest.raises(ValueError, match="'satimp' is in the pack already"):
        pack.join("satimp", tiny.trial(llama, model=lora()), tmp_path)
    with pytest.raises(TrialFailed, match="name others"):
        pack.join("nowhere", tiny.trial(llama, model=lora(targets=["nowhere"])), tmp_path)
    assert not any(weight.requires_grad for weight in pack.warm.working.parameters())
    assert pack.run_epoch().keys() == {"satimp"}


# -- the layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 4, 3)], ids=["equal ranks", "unequal ranks"])
@pytest.mark.parametrize("shape", [(6, 5, 8), (30, 8)], ids=["rows", "rows and positions in one dimension"])
def test_one_batched_product_equals_a_loop_over_members(ranks: tuple[int, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, base = torch.randn(shape, requires_grad=True), torch.nn.Linear(8, 7).requires_grad_(False)
    adapters = [
        Adapter(torch.randn(r, 8, requires_grad=True), torch.randn(7, r, requires_grad=True), 2 / r) for r in ranks
    ]
    leaves = [x, *itertools.chain(*((each.down_RI, each.up_OR) for each in adapters))]
    found = batched(x, base, adapters)
    expected = one_by_one(x, base(x), adapters, [2, 2, 2])
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    push = torch.randn_like(expected)
    gradients = (torch.autograd.grad((each * push).sum(), leaves) for each in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_member_without_an_adapter_of_a_layer_gets_what_the_bare_layer_gives() -> None:
    x, y = torch.randn(3, 4, 8), torch.randn(3, 4, 7)
    adapter = Adapter(torch.randn(2, 8), torch.randn(7, 2), 1.0)
    found = one_by_one(x, y, [None, adapter], [1, 2])
    assert torch.equal(found[:1], y[:1])
    assert not torch.isclose(found[1:], y[1:]).all()


def test_between_passes_a_shared_model_is_the_bare_one(llama: Path, tmp_path: Path) -> None:
    config = configs(llama, "satimp")["satimp"]
    warm = workspace(config)
    ids = torch.tensor([[5, 6, 7]])
    with warm.fresh(config) as adapted:
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        shared = Shared(copy.deepcopy(warm.reference))
        shared.add("a", adapted)
        with torch.no_grad():
            bare, under = warm.reference(ids).logits, adapted(ids).logits
            with shared.passing(["a"], [1]):
                torch.testing.assert_close(shared.model(ids).logits, under)
            assert torch.equal(shared.model(ids).logits, bare)
            shared.remove("a")
            with shared.passing(["a"], [1]):
                assert torch.equal(shared.model(ids).logits, bare)
        assert not torch.isclose(bare, under).all()
