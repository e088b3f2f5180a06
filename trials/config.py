"""What one trial is, as data: benchmark, target model, loss, optimiser, epochs, seed.

Everything is frozen and refuses unknown keys; this module is read by `plan` and by the checks of a sweep file, so it
imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trials.objectives import LossConfig
from trials.prompts import AUTO, Prompt
from trials.settings import Frozen
from trials.sources import AuthorsConfig, BenchmarkConfig, Seed, TofuConfig

# -- models ------------------------------------------------------------------------------------------------------------


class TinyConfig(Frozen):
    """The embedded model: a small Llama with its own tokenizer, trained by us until it has memorised the benchmark.

    Defaults and what was tried: docs/tiny-model.md.
    """

    vocab_size: int = Field(1536, ge=300)
    hidden_size: PositiveInt = 96
    layers: PositiveInt = 2
    heads: PositiveInt = 4
    intermediate_size: PositiveInt = 256
    init_std: PositiveFloat = 0.05
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 16
    lr: PositiveFloat = 5e-3
    warmup: float = Field(0.25, ge=0, lt=1, description="share of the steps; then linear to 0")
    seed: Seed = 0

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> TinyConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice heads ({self.heads}); change one of them"
            )
        return self


class NoAdapter(Frozen):
    """Full fine-tuning."""

    type: Literal["none"] = "none"


class LoraConfig(Frozen):
    """LoRA (arXiv 2106.09685) through peft."""

    type: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = Field("all-linear", description="module names, or `all-linear`")
    init: Literal["default", "fila"] = Field(
        "default", description="fila: from the weights that matter to the forget set (LoKU, arXiv 2408.06621)"
    )


class ModelConfig(Frozen):
    """The target model: a local folder or hub id of any transformers causal LM, or (path null) the tiny one."""

    path: str | None = None
    revision: str | None = Field(None, description="hub revision")
    retain_path: str | None = Field(None, description="model trained on the retain set only, an anchor of the report")
    retain_revision: str | None = Field(None, description="hub revision of retain_path")
    retain_log: str | None = Field(
        None,
        description="evaluation log of the retain model: `unlearn-sweep evaluate`'s, or OpenUnlearning's TOFU_EVAL",
    )
    prompt: Prompt = AUTO
    hide_pad: bool = Field(
        False,
        description="hide tokens equal to the pad token from attention, real end tokens too, as OpenUnlearning does",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    device_map: Literal["auto", "balanced"] | None = Field(
        None, description="layers over all GPUs that a trial takes (resources.gpu: 2); null: all of it on `device`"
    )
    adapter: Annotated[NoAdapter | LoraConfig, Field(discriminator="type")] = NoAdapter()
    tiny: TinyConfig = TinyConfig()

    @model_validator(mode="after")
    def _one_place(self) -> ModelConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(
                f"device_map {self.device_map!r} lays the model over all GPUs and device is {self.device!r}; "
                "leave device at auto, or device_map at null"
            )
        return self


# -- optimiser ---------------------------------------------------------------------------------------------------------


class AllWeights(Frozen):
    """Every trainable weight is updated."""

    type: Literal["all"] = "all"


class Wagle(Frozen):
    """Weight attribution (arXiv 2410.17509): only the weights that matter most for forgetting are updated."""

    type: Literal["wagle"] = "wagle"
    fraction: float = Field(0.8, gt=0, le=1, description="share of the weights that are updated")
    hessian: float | None = Field(
        None, gt=0, description="diagonal of the retain loss's Hessian; null: so that both terms have one mean size"
    )


class OptimConfig(Frozen):
    """AdamW over steps of `batch_size` forget rows, each with one retain partner."""

    lr: float = Field(3e-4, gt=0, le=10)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    clip: PositiveFloat | None = Field(None, description="gradient norm; null: no clipping")
    batch_size: PositiveInt = 8
    micro_batch_size: PositiveInt | None = Field(None, description="rows per forward; null: batch_size")
    schedule: Literal["constant", "linear"] = Field("constant", description="after warm-up, over the full budget")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    mask: Annotated[AllWeights | Wagle, Field(discriminator="type")] = AllWeights()


# -- what is asked, what is measured -----------------------------------------------------------------------------------


class Requests(Frozen):
    """The forget set as several requests: MUSE's own, or parts of equal size, in the order of its rows."""

    parts: PositiveInt = Field(1, description="parts that a benchmark without requests of its own is cut into")
    count: PositiveInt | None = Field(None, description="the first so many requests are made; null: all")
    order: Literal["together", "successive"] = Field(
        "together", description="successive: one after the other, the epochs shared out among them (sustainability)"
    )


class Relearning(Frozen):
    """Fine-tuning on part of the forget set after unlearning: does the knowledge come back?"""

    share: float = Field(0.25, gt=0, le=1, description="part of the forget rows that is shown again, the first ones")
    steps: PositiveInt = 20
    lr: float = Field(1e-4, gt=0, le=10)
    batch_size: PositiveInt = 8
    seed: Seed = Field(0, description="of the order of the rows, and the same for the models that are compared")


class Evaluation(Frozen):
    """What is measured, and when. Names, patterns as in forget.*, or groups: docs/metrics.md."""

    metrics: tuple[str, ...] = Field(
        ("default",), description="after every epoch; those of more than one pass only as `every` says"
    )
    every: PositiveInt | None = Field(
        None, description="epochs between measurements of metrics that need more than one pass; null: after the last"
    )
    front: tuple[str, ...] = Field((), description="besides, of the trials on the front, once the search has ended")
    batch_size: PositiveInt = Field(32, description="sequences of a pass")
    max_new_tokens: PositiveInt = Field(200, description="longest generation; of MUSE as its authors say")
    relearning: Relearning = Relearning()


class TrialConfig(Frozen):
    """One trial: everything `run_trial` needs."""

    benchmark: BenchmarkConfig = AuthorsConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    requests: Requests = Requests()
    evaluation: Evaluation = Evaluation()
    epochs: PositiveInt = 8
    seed: Seed = 0
    log_weights: bool = Field(
        False, description="after each epoch, the weights against the tokens' likelihood: metrics and a figure"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> TrialConfig:
        benchmark, criterion = self.benchmark, self.loss.criterion
        if "annotations" in self.loss.needs and isinstance(benchmark, TofuConfig) and benchmark.annotations is None:
            raise ValueError(
                "the loss weighs annotated key words and benchmark.annotations is null; set it to a JSON file of them"
            )
        adapter = self.model.adapter
        if isinstance(self.optim.mask, Wagle) and isinstance(adapter, LoraConfig) and adapter.init == "default":
            raise ValueError(
                "optim.mask wagle ranks weights by what they do, and a new LoRA adapter does nothing yet; "
                "use model.adapter none, or its init fila"
            )
        layer = getattr(criterion, "layer", None)
        if self.model.path is None and layer is not None and layer > self.model.tiny.layers:
            raise ValueError(
                f"loss.criterion.layer {layer} is more than the {self.model.tiny.layers} layers of the tiny model; "
                "lower it or leave it null"
            )
        return self
