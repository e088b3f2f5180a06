"""Models: logits at answer positions only, a workspace that is reset, targets that are trained once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny
from tests.tiny import same
from trials.benchmarks import Row, load_benchmark
from trials.config import ModelConfig
from trials.encoding import Example, Padding, collate, encode
from trials.identity import model_digest
from trials.logits import LogitDifference, answer_logits, answer_states
from trials.models import derived_seed, device_of, load_model, load_tokenizer, pad_token, workspace
from trials.result import TrialFailed
from trials.robustness import merged_copy
from trials.scoring import score
from trials.target import prepare

CPU = torch.device("cpu")
PADDING = Padding(0)
ROWS = [Row("Who?", "Ada."), Row("What is it that she wrote?", "A book."), Row("Where?", "In a small town, at night.")]
every_architecture = pytest.mark.parametrize("name", tiny.ARCHITECTURES)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tiny_tokenizer()


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# -- logits ------------------------------------------------------------------------------------------------------------


@every_architecture
def test_answer_logits_are_the_full_logits_at_answer_positions(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.random_model(name, len(tokenizer))
    batch = collate(encode(tokenizer, ROWS), PADDING, CPU)
    with torch.no_grad():
        logits = answer_logits(model, batch)
        full = model(input_ids=batch.input_BT, attention_mask=batch.attention_BT).logits
    torch.testing.assert_close(logits, full[batch.answer_BT], rtol=1e-5, atol=1e-5)
    if name == "gemma2":
        assert logits.abs().max() <= 2.0  # the soft cap is on


@every_architecture
def test_a_row_has_the_same_logits_alone_and_beside_a_longer_one(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.random_model(name, len(tokenizer))
    examples = encode(tokenizer, ROWS)
    with torch.no_grad():
        together = answer_logits(model, collate(examples, PADDING, CPU))
        alone = torch.cat([answer_logits(model, collate([example], PADDING, CPU)) for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@every_architecture
def test_the_gradient_through_answer_logits_is_that_through_the_full_ones(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny.random_model(name, len(tokenizer))
    batch = collate(encode(tokenizer, ROWS), PADDING, CPU)
    gradients = []
    for narrow in (True, False):
        model.zero_grad()
        if narrow:
            logits = answer_logits(model, batch)
        else:
            logits = model(input_ids=batch.input_BT, attention_mask=batch.attention_BT).logits[batch.answer_BT]
        logits.log_softmax(-1).gather(1, batch.target_N[:, None]).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 5
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@every_architecture
def test_hidden_states_are_those_of_the_layer_where_an_answer_token_is_predicted(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny.random_model(name, len(tokenizer))
    batch = collate(encode(tokenizer, ROWS), PADDING, CPU)
    outputs: list[torch.Tensor] = []
    for layer in next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList)):
        layer.register_forward_hook(lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        logits, states = answer_states(model, batch, 1)
        assert states is not None
        assert torch.equal(states, outputs[0][batch.answer_BT])
        assert torch.equal(logits, answer_logits(model, batch))
        # The last ones are what the head sees.
        _, last = answer_states(model, batch, 2)
        head = model.get_output_embeddings()
        capped = 2.0 * (head(last) / 2.0).tanh() if name == "gemma2" else head(last)
        torch.testing.assert_close(capped, logits, rtol=1e-5, atol=1e-5)


def test_the_hook_is_gone_after_a_pass_and_after_a_failed_one(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.random_model("llama", len(tokenizer))
    batch = collate(encode(tokenizer, ROWS), PADDING, CPU)
    answer_logits(model, batch)
    broken = collate([Example((1, 2), (10**6, 1))], PADDING, CPU)
    with pytest.raises(IndexError, match="out of range"):
        answer_logits(model, broken)
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_logits_of_a_half_precision_model_are_fp32(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.random_model("llama", len(tokenizer)).to(torch.bfloat16)
    assert answer_logits(model, collate(encode(tokenizer, ROWS), PADDING, CPU)).dtype == torch.float32


def test_a_model_in_parts_is_read_copied_and_reset_as_one_that_is_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    """With the hooks of a model over several GPUs, which all are the CPU here: moving is not tried."""
    whole, parts = (tiny.random_model("llama", len(tokenizer)) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    layers = {f"model.layers.{number}": "cpu" for number in range(2)}
    ends = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    parts = dispatch_model(parts, ends | layers, main_device="cpu", force_hooks=True)
    batch = collate(encode(tokenizer, ROWS), PADDING, CPU)
    for one, other in zip(answer_states(whole, batch, 1), answer_states(parts, batch, 1), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    copied = merged_copy(parts)
    answer_logits(copied, batch).sum().backward()
    assert all(parameter.grad is None for parameter in parts.parameters())
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert parts.state_dict().keys() == whole.state_dict().keys(), "what a working copy is reset by"


# -- scoring -----------------------------------------------------------------------------------------------------------


def test_a_sequence_that_stands_in_two_sets_is_passed_once(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.random_model("llama", len(tokenizer))
    examples = encode(tokenizer, ROWS)
    score(model, examples[:1], padding=PADDING, device=CPU)  # the head has been tried after that
    passed: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: passed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    answers = score(model, [*examples[:2], *examples, examples[0]], padding=PADDING, device=CPU)
    handle.remove()
    assert passed == [3]
    first = [next(i for i, other in enumerate(answers) if other is answer) for answer in answers]
    assert first == [0, 1, 0, 1, 4, 0]
    alone = score(model, examples[:2], padding=PADDING, device=CPU)
    for one, other in zip(answers, alone, strict=False):
        assert one.ce == pytest.approx(other.ce, abs=1e-6)


def test_scores_come_in_the_order_of_the_examples_whatever_the_batch_size(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.random_model("llama", len(tokenizer))
    examples = [*encode(tokenizer, ROWS), *encode(tokenizer, ROWS)[::-1]]
    wide = score(model, examples, padding=PADDING, device=CPU)
    for example, answer, narrow in zip(
        examples, wide, score(model, examples, padding=PADDING, device=CPU, batch_size=1), strict=True
    ):
        assert answer.ce.shape == answer.hit.shape == (len(example.answer),)
        assert answer.ce == pytest.approx(narrow.ce, abs=1e-5)
        assert (answer.hit == narrow.hit).all()


@pytest.mark.parametrize("training", [True, False])
def test_scoring_needs_no_gradient_and_leaves_the_mode_of_the_model_alone(
    training: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny.random_model("gpt_neox", len(tokenizer)).train(training)
    score(model, encode(tokenizer, ROWS), padding=PADDING, device=CPU)
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


# -- the workspace -----------------------------------------------------------------------------------------------------


def spoil(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)


def test_a_fresh_model_is_the_target_again_after_full_fine_tuning(llama: Path) -> None:
    with tiny.cold():
        warm = workspace(tiny.trial(llama))
        target = weights(warm.reference)
        with warm.fresh(tiny.trial(llama)) as model:
            assert model.training
            spoil(model)
        assert not same(weights(warm.working), target)
        with warm.fresh(tiny.trial(llama, seed=1)) as model:
            assert same(weights(model), target)
            assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert same(weights(warm.reference), target)
        assert not any(parameter.requires_grad for parameter in warm.reference.parameters())


@every_architecture
def test_an_adapter_leaves_the_working_model_as_it_was(name: str, tmp_path: Path) -> None:
    folder = tiny.saved_model(tmp_path / "m", name)
    with tiny.cold():
        warm = workspace(tiny.trial(folder))
        modules = [type(module) for module in warm.working.modules()]
        for _ in range(2):
            with warm.fresh(tiny.trial(folder, model=tiny.LORA)) as model:
                trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
                assert trained
                assert all("lora_" in key for key in trained)
                spoil(model)
            assert [type(module) for module in warm.working.modules()] == modules
            assert same(weights(warm.working), weights(warm.reference))
        with warm.fresh(tiny.trial(folder)) as model:
            assert isinstance(model, PreTrainedModel)
            assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_is_taken_off_even_when_the_trial_breaks(llama: Path) -> None:
    with tiny.cold():
        warm = workspace(tiny.trial(llama))
        with pytest.raises(RuntimeError, match="boom"), warm.fresh(tiny.trial(llama, model=tiny.LORA)):
            raise RuntimeError("boom")
        assert same(weights(warm.working), weights(warm.reference))


def test_an_adapter_on_modules_that_the_model_has_not_ends_the_trial(llama: Path) -> None:
    config = tiny.trial(llama, model={"adapter": {"type": "lora", "targets": ["nope"]}})
    with (
        pytest.raises(TrialFailed, match=r"model\.adapter\.targets \('nope',\): .*; name others"),
        workspace(config).fresh(config),
    ):
        pass


def test_the_start_of_an_adapter_follows_the_seed(llama: Path) -> None:
    starts = []
    with tiny.cold():
        warm = workspace(tiny.trial(llama))
        for seed in (0, 0, 1):
            torch.rand(seed + 1)  # a global generator in another state
            with warm.fresh(tiny.trial(llama, model=tiny.LORA, seed=seed)) as model:
                starts.append({name: p.detach().clone() for name, p in model.named_parameters() if "lora_A" in name})
    assert same(starts[0], starts[1])
    assert not same(starts[0], starts[2])


def test_trials_that_differ_in_loss_optimiser_and_adapter_share_a_workspace(llama: Path) -> None:
    with tiny.cold():
        warm = workspace(tiny.trial(llama))
        other = tiny.trial(llama, optim={"lr": 1e-3}, model={"adapter": {"type": "lora"}}, seed=4)
        assert workspace(other) is warm
        assert workspace(tiny.trial(llama, benchmark={"seed": 1})) is not warm


# -- uld: an assistant, and the difference to it -----------------------------------------------------------------------


@every_architecture
def test_an_assistant_is_the_target_cut_after_its_first_layers(name: str, tmp_path: Path) -> None:
    folder = tiny.saved_model(tmp_path / "m", name)
    with tiny.cold():
        warm = workspace(tiny.trial(folder))
        cut = warm.assistant(1)
        assert [cut.config.num_hidden_layers, warm.reference.config.num_hidden_layers] == [1, 2]
        ours, theirs = weights(cut), weights(warm.reference)
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
        dropped = {key for key in theirs if ".layers.1." in key}
        assert dropped
        assert ours.keys() == theirs.keys() - dropped
        # Its weights are its own: the target stays what it is.
        spoil(cut)
        assert same(weights(warm.reference), theirs)
        assert same(weights(warm.working), theirs)


@every_architecture
def test_an_assistant_computes_what_the_target_does_up_to_its_last_layer(name: str, tmp_path: Path) -> None:
    folder = tiny.saved_model(tmp_path / "m", name)
    with tiny.cold():
        warm = workspace(tiny.trial(folder))
        cut = warm.assistant(1).eval()
        inside: list[torch.Tensor] = []
        layers = next(module for module in cut.modules() if isinstance(module, torch.nn.ModuleList))
        layers[0].register_forward_hook(lambda _, __, out: inside.append(out[0] if isinstance(out, tuple) else out))
        batch = collate(warm.forget, warm.padding, warm.device)
        with torch.no_grad():
            answer_logits(cut, batch)
            _, expected = answer_states(warm.reference, batch, 1)
        assert expected is not None
        torch.testing.assert_close(inside[0][batch.answer_BT], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [None, 2, 8])
def test_an_assistant_of_all_layers_is_a_copy_of_the_target(layers: int | None, llama: Path) -> None:
    with tiny.cold():
        warm = workspace(tiny.trial(llama))
        copy = warm.assistant(layers)
        assert same(weights(copy), weights(warm.reference))
        batch = collate(warm.forget, warm.padding, warm.device)
        with torch.no_grad():
            assert torch.equal(answer_logits(copy.eval(), batch), answer_logits(warm.reference, batch))


def test_an_assistant_has_the_dtype_of_the_target(llama: Path) -> None:
    with tiny.cold():
        warm = workspace(tiny.trial(llama, model={"dtype": "bfloat16"}))
        assert {parameter.dtype for parameter in warm.assistant(1).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("model", [{}, tiny.LORA], ids=["full", "lora"])
def test_a_fresh_trial_of_uld_trains_the_assistant_and_leaves_the_working_model_whole(
    model: dict[str, Any], llama: Path
) -> None:
    uld = {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}
    config = tiny.trial(llama, loss=uld, model=model)
    with tiny.cold():
        warm = workspace(config)
        for _ in range(2):
            with warm.fresh(config) as assistant:
                assert assistant.training
                assert assistant.config.num_hidden_layers == 1
                trained = [key for key, parameter in assistant.named_parameters() if parameter.requires_grad]
                assert trained
                assert all(("lora_" in key) == bool(model) for key in trained)
                spoil(assistant)
            assert same(weights(warm.working), weights(warm.reference))


@every_architecture
def test_the_difference_is_target_minus_weighted_assistant(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    target, assistant = tiny.random_model(name, len(tokenizer)), tiny.random_model(name, len(tokenizer))
    spoil(assistant)
    batch = collate(encode(tokenizer, ROWS), PADDING, CPU)
    with torch.no_grad():
        found, states = answer_states(LogitDifference(target, assistant, 0.7), batch)
        expected = answer_logits(target, batch) - 0.7 * answer_logits(assistant, batch)
    assert states is None
    torch.testing.assert_close(found, expected)


def test_training_the_difference_leaves_the_target_in_eval_mode(tokenizer: PreTrainedTokenizerFast) -> None:
    target, assistant = (tiny.random_model("gpt_neox", len(tokenizer)) for _ in range(2))
    difference = LogitDifference(target, assistant, 0.8)
    for mode in (True, False, True):
        assert difference.train(mode) is difference
        assert (difference.training, assistant.training, target.training) == (mode, mode, False)
    score(difference, encode(tokenizer, ROWS), padding=PADDING, device=CPU)
    assert (difference.training, assistant.training, target.training) == (True, True, False)
    difference.eval()
    assert (difference.training, assistant.training, target.training) == (False, False, False)


# -- folders and settings ----------------------------------------------------------------------------------------------


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no eos_token, which closes every answer; set one and save it"):
        load_tokenizer(str(tmp_path), ModelConfig())


def test_the_pad_token_is_the_end_token_where_there_is_none(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    assert pad_token(bare) == bare.eos_token_id
    assert pad_token(tokenizer) == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_model_is_loaded_in_its_dtype_and_in_eval_mode(llama: Path) -> None:
    model = load_model(str(llama), ModelConfig(path=str(llama), dtype="bfloat16", device="cpu"))
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert model.device == CPU


def test_a_configured_device_is_taken_and_auto_is_one_that_exists() -> None:
    assert device_of(ModelConfig(device="cpu")) == CPU
    assert device_of(ModelConfig(device="cuda:1")) == torch.device("cuda:1")
    assert device_of(ModelConfig()).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_configured_target_has_a_retain_model_only_where_one_is_named(llama: Path) -> None:
    benchmark = load_benchmark(tiny.AUTHORS)
    config = tiny.trial(llama)
    assert prepare(config, benchmark, "target") == str(llama)
    with pytest.raises(ValueError, match=r"model\.retain_path is not set, so there is no retain model"):
        prepare(config, benchmark, "retain")
    named = tiny.trial(llama, model={"retain_path": "some/where"})
    assert prepare(named, benchmark, "retain") == "some/where"


def test_the_digest_of_a_local_model_follows_its_files_and_not_their_place(llama: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in llama.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    ours = ModelConfig(path=str(llama))
    assert model_digest(ModelConfig(path=str(copy)), data="d") == model_digest(ours, data="d")
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert model_digest(ModelConfig(path=str(copy)), data="d") != model_digest(ours, data="d")


def test_derived_seeds_differ_with_every_part_and_with_their_order() -> None:
    seeds = [derived_seed(0, 1), derived_seed(1, 0), derived_seed(0, 2), derived_seed(0, 1, 1)]
    assert len(set(seeds)) == 4
    assert derived_seed(0, 1) == seeds[0]


def test_a_model_that_lacks_weights_is_refused_instead_of_filled_up_at_random(tmp_path: Path) -> None:
    model = tiny.random_model("llama", 40)
    weights_ = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp.up" not in name}
    model.save_pretrained(tmp_path, state_dict=weights_)
    with pytest.raises(ValueError, match=r"lacks 1 weights, 'model\.layers\.1\.mlp\.up_proj\.weight' first; save it"):
        load_model(str(tmp_path), ModelConfig(path=str(tmp_path), device="cpu"))


def test_a_sequence_that_is_longer_than_the_model_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.random_model("phi", len(tokenizer))
    fits = Example((5,), (6,) * 512)
    assert len(score(model, [fits], padding=PADDING, device=CPU)[0].ce) == 512
    with pytest.raises(TrialFailed, match="a sequence has 514 tokens and the model 512 positions; cut it"):
        score(model, [Example((5,), (6,) * 513)], padding=PADDING, device=CPU)
