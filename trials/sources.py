"""Settings of benchmarks: where rows come from, and which of them are to be forgotten, replayed and measured on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from trials.settings import Frozen

Seed = Annotated[int, Field(ge=0, lt=2**31)]


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
    real_authors_split: str = "real_authors_perturbed"
    annotations: str | None = Field(None, description="JSON file with the key words of each forget answer")
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


class MuseConfig(Frozen):
    """MUSE (arXiv 2407.06460): news or books to be forgotten, as raw text, from a folder or from the hub."""

    type: Literal["muse"] = "muse"
    path: str | None = Field(
        None, description="folder with raw/forget.json or news/raw/forget.json and so on; null: `hub` through datasets"
    )
    corpus: Literal["news", "books"] = "news"
    hub: str | None = Field(None, description="null: muse-bench/MUSE-News or MUSE-Books")
    forget: Literal["raw", "scal", "sust"] = Field(
        "raw", description="forget set: raw/forget, or the requests scal/forget_1 to 4 (nested) or sust/forget_1 to 4"
    )
    chunk: PositiveInt = Field(2048, description="longest piece of raw text in tokens, in training and evaluation")

    @property
    def name(self) -> str:
        """Name of the benchmark, of its MLflow experiment too."""
        return f"muse-{self.corpus}" + ("" if self.forget == "raw" else f"-{self.forget}")


class WmdpConfig(Frozen):
    """WMDP (arXiv 2403.03218): hazardous knowledge, measured by multiple choice, forgotten by way of a corpus."""

    type: Literal["wmdp"] = "wmdp"
    path: str = Field(description="folder with the files below")
    forget_corpus: str | None = Field(
        "forget_corpus.jsonl",
        description="texts to be forgotten: .jsonl with `text`, or .txt; null where nothing is unlearned",
    )
    retain_corpus: str | None = Field(
        "retain_corpus.jsonl", description="texts to be kept: half replayed, half measured on"
    )
    questions: tuple[str, ...] = Field(
        ("wmdp_bio.jsonl", "wmdp_cyber.jsonl", "wmdp_chem.jsonl"),
        description="multiple choice of what is to be forgotten: question, choices, answer (a number from 0, or a "
        "letter); files that are not there are left out, one must be",
    )
    utility: str | None = Field("mmlu.jsonl", description="multiple choice of what is to be kept; null: none")
    chunk: PositiveInt = Field(512, description="longest piece of a text in tokens")

    @property
    def name(self) -> str:
        """Name of the benchmark, of its MLflow experiment too."""
        return "wmdp"


BenchmarkConfig = Annotated[AuthorsConfig | TofuConfig | MuseConfig | WmdpConfig, Field(discriminator="type")]
