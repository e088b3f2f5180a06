"""A small TOFU that the tests of benchmarks write, and what they ask of its row sets."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trials.benchmarks import ROWS_PER_AUTHOR, Benchmark, BenchmarkError, load_benchmark
from trials.config import AuthorsConfig, TofuConfig

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


def refused(setting: TofuConfig | AuthorsConfig, field: str, match: str) -> None:
    with pytest.raises(BenchmarkError, match=match) as caught:
        load_benchmark(setting)
    assert caught.value.field == field
