"""A small TOFU that the tests of benchmarks write, a hub of their own, and what they ask of row sets."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trials.benchmarks import ROWS_PER_AUTHOR, Benchmark, BenchmarkError, load_benchmark
from trials.sources import BenchmarkConfig, TofuConfig

Rows = list[dict[str, Any]]


def author(index: int, *, rows: int = ROWS_PER_AUTHOR) -> Rows:
    return [{"question": f"Frage {n} an «{index}»?", "answer": f"Antwort {n}, 東京 {index}."} for n in range(rows)]


def authors(*indices: int) -> Rows:
    return [row for index in indices for row in author(index)]


def rich(rows: Rows, wrong: int = 2) -> Rows:
    extra = {
        "paraphrased_question": "umgestellt?",
        "paraphrased_answer": "anders",
        "perturbed_answer": ["falsch"] * wrong,
    }
    return [row | extra for row in rows]


def write(folder: Path, files: dict[str, Rows], *, zipped: Sequence[str] = ()) -> None:
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if name in zipped:
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def config(folder: Path, **changes: Any) -> TofuConfig:
    return TofuConfig(**{"path": str(folder), "split": "forget05", "retain_eval": 40, **changes})


def sizes(benchmark: Benchmark) -> list[int]:
    sets = (
        benchmark.forget,
        benchmark.retain_pool,
        benchmark.retain,
        benchmark.retain_rest,
        benchmark.holdout,
        benchmark.general,
    )
    return [len(rows) for rows in sets]


def assert_disjoint(benchmark: Benchmark) -> None:
    every = [*benchmark.forget, *benchmark.kept, *benchmark.holdout]
    assert len({(row.question, row.answer) for row in every}) == len(every)


def refused(setting: BenchmarkConfig, field: str, match: str) -> None:
    with pytest.raises(BenchmarkError, match=match) as caught:
        load_benchmark(setting)
    assert caught.value.field == field


def fake_hub(patch: pytest.MonkeyPatch, files: dict[tuple[str, str], Rows] | Exception) -> list[tuple[str, str, str]]:
    """Puts configurations and splits in the place of the hub's; returns the calls that it sees."""
    import datasets  # slow to import, and every test imports this module

    calls: list[tuple[str, str, str]] = []

    def load_dataset(path: str, name: str, *, split: str) -> datasets.Dataset:
        calls.append((path, name, split))
        if isinstance(files, Exception):
            raise files
        if (name, split) not in files:
            raise ValueError(f"BuilderConfig {name!r} or split {split!r} not found. Available: {sorted(files)}")
        return datasets.Dataset.from_list(files[name, split])

    patch.setattr(datasets, "load_dataset", load_dataset)
    return calls
