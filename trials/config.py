"""What one trial is, as data: benchmark, target model, loss, optimiser, epochs, seed.

Everything is frozen and refuses unknown keys; this module is read by `plan` and by the checks of a sweep file, so it
imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from trials.weighting import Granularity, Importance, Mixture, SatImp, Saturation, Uniform

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Frozen(BaseModel):
    """Immutable settings that refuse unknown keys, NaN and inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# -- benchmarks --------------------------------------------------------------------------------------------------------


class AuthorsConfig(Frozen):
    """Fictitious authors written by our own seeded code (`trials/authors.py`): no download."""

    type: Literal["authors"] = "authors"
    authors: int = Field(16, ge=2, description="retain and forget authors together")
    forget_authors: PositiveInt = 4
    holdout_authors: PositiveInt = 2
    questions: PositiveInt = Field(14, description="rows per author")
    general: PositiveInt = Field(50, description="general-knowledge rows")
    retain_pool: PositiveInt = Field(84, description="retain rows the unlearner may replay; retain.* uses others")
    seed: Seed = 0

    @property
    def name(self) -> str:
        """Name of the benchmark, of its MLflow experiment too."""
        return "authors"


class TofuConfig(Frozen):
    """TOFU (arXiv 2401.06121) from a folder of .jsonl or .jsonl.gz files, or from the hub when `path` is null."""

    type: Literal["tofu"] = "tofu"
    path: str | None = Field(None, description="folder with forget01.jsonl and so on; null: `hub` through datasets")
    hub: str = "locuslab/TOFU"
    split: str = Field("forget10", description="forget set: forget01, forget05, forget10, or a file of your own")
    retain_split: str | None = Field(None, description="null: the one that belongs to `split`")
    holdout_split: str | None = Field(None, description="null: the one that belongs to `split`")
    general_split: str = "world_facts_perturbed"
    authors: PositiveInt | None = Field(
        None, description="use only this many authors (20 rows each), the forget ones among them; null: all"
    )
    retain_eval: PositiveInt = Field(400, description="first retain rows: never replayed, retain.* is taken on them")
    retain_pool: PositiveInt | None = Field(
        None, description="retain rows after those that the unlearner may replay; null: all of them"
    )

    @property
    def name(self) -> str:
        """Name of the benchmark, of its MLflow experiment too."""
        return f"tofu-{self.split}"


BenchmarkConfig = Annotated[AuthorsConfig | TofuConfig, Field(discriminator="type")]

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


class ModelConfig(Frozen):
    """The target model: a local folder or hub id of any transformers causal LM, or (path null) the tiny one."""

    path: str | None = None
    revision: str | None = Field(None, description="hub revision")
    retain_path: str | None = Field(None, description="model trained on the retain set only, an anchor of the report")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    adapter: Annotated[NoAdapter | LoraConfig, Field(discriminator="type")] = NoAdapter()
    tiny: TinyConfig = TinyConfig()


# -- loss --------------------------------------------------------------------------------------------------------------


class NPO(Frozen):
    """Negative preference optimisation (arXiv 2404.05868): relative to the reference model, one answer at a time."""

    type: Literal["npo"] = "npo"
    beta: float = Field(0.1, gt=0, le=100)


class SimNPO(Frozen):
    """NPO without a reference, normalised by length (arXiv 2410.07163)."""

    type: Literal["simnpo"] = "simnpo"
    beta: float = Field(2.5, gt=0, le=100)
    margin: float = Field(0.0, ge=0, le=100)


Forget = Annotated[
    Uniform | Saturation | Importance | SatImp | Mixture | NPO | SimNPO,
    Field(discriminator="type"),
]


class RetainConfig(Frozen):
    """The term that keeps the retain set: nothing, its likelihood, or closeness to the reference model."""

    term: Literal["none", "nll", "kl"] = "nll"
    coefficient: float = Field(1.0, ge=0)


class LossConfig(Frozen):
    """forget_coefficient * forget term + retain.coefficient * retain term, both minimised."""

    criterion: Forget = SatImp()
    granularity: Granularity = Field("token", description="of reweightings; npo and simnpo are per answer anyway")
    forget_coefficient: float = Field(1.0, ge=0)
    retain: RetainConfig = RetainConfig()


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


class TrialConfig(Frozen):
    """One trial: everything `run_trial` needs."""

    benchmark: BenchmarkConfig = AuthorsConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    epochs: PositiveInt = 8
    seed: Seed = 0


# -- published settings ------------------------------------------------------------------------------------------------

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "gradient_ascent": (
        {"criterion": {"type": "uniform"}, "retain": {"term": "none"}},
        "GA: uniform weights, no retain term (arXiv 2401.06121)",
    ),
    "gradient_difference": (
        {"criterion": {"type": "uniform"}},
        "GradDiff: uniform weights, retain NLL (arXiv 2401.06121)",
    ),
    "satimp_gd_readme": (
        {"criterion": {"type": "satimp", "beta1": 5.0, "beta2": 0.1}, "retain": {"coefficient": 0.1}},
        "SatImp with retain NLL as in its repository's README and yaml (arXiv 2505.11953)",
    ),
    "satimp_ou_merged": (
        {
            "criterion": {"type": "satimp", "beta1": 5.0, "beta2": 1.0},
            "forget_coefficient": 0.1,
            "retain": {"coefficient": 1.0},
        },
        "SatImp as merged into OpenUnlearning's configuration",
    ),
    "satimp_author_2026": (
        {"criterion": {"type": "satimp", "beta1": 4.0, "beta2": 0.1}, "retain": {"coefficient": 0.1}},
        "SatImp as retuned by its author in 2026 (OpenUnlearning pull request 192)",
    ),
    "satimp_ou_readme": (
        {"criterion": {"type": "satimp", "beta1": 5.0, "beta2": 1.0}, "retain": {"coefficient": 0.1}},
        "SatImp as in the README of its OpenUnlearning contribution (arXiv 2505.11953)",
    ),
    "simsat5": (
        {"criterion": {"type": "saturation", "beta1": 5.0}},
        "SimSat with retain NLL at its code's default exponent (arXiv 2505.11953)",
    ),
    "simimp5": (
        {"criterion": {"type": "importance", "beta2": 5.0}},
        "SimImp with retain NLL at its code's default exponent (arXiv 2505.11953)",
    ),
    "wga": (
        {"criterion": {"type": "saturation", "beta1": 1.0}},
        "WGA with retain NLL (arXiv 2502.19301)",
    ),
    "npo_ou": (
        {"criterion": {"type": "npo", "beta": 0.1}},
        "NPO with retain NLL as in OpenUnlearning (arXiv 2404.05868)",
    ),
    "simnpo_tofu05": (
        {"criterion": {"type": "simnpo", "beta": 2.5}, "forget_coefficient": 0.1375},
        "SimNPO as tuned for TOFU forget05 (arXiv 2410.07163)",
    ),
    "simnpo_tofu10": (
        {"criterion": {"type": "simnpo", "beta": 4.5}, "forget_coefficient": 0.125},
        "SimNPO as tuned for TOFU forget10 (arXiv 2410.07163)",
    ),
}
"""Label -> (loss settings, source). A preset is a whole loss: what it leaves out stands at its default."""
