"""Digests: the same number can be had again where these agree.

What bears identity goes in: settings, contents of data and model, recipes. Where a run happens to find things (paths,
devices, worker counts) stays out.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from trials.config import ModelConfig, TrialConfig
from trials.naming import looked_into, named

RECIPE = 2
"""Raise it when training of tiny models, prompts, refusals, tokenisation or metrics change.

What is cached is then made anew.
"""


CACHE = "UNLEARN_SWEEP_CACHE"
"""Variable that names another cache folder than the user's."""

_MADE_OF = {".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken"}
"""Files of a model's folder that bear on its numbers: a chat template is one of its own."""


def digest(value: Any) -> str:
    """Sixteen hex digits that name a JSON value: the same on every machine, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_digest(model: ModelConfig, *, data: str, which: str = "target") -> str:
    """Name of the target model, or of the retain model, by what it is made of.

    A model that we train is its recipe and its data. A local folder is its files: up to 128 MiB by
    content, a larger one by size and 512 blocks of it, first to last, since all of a 70B model would take minutes.
    A hub id is itself with its revision.

    Args:
        model: The settings.
        data: Digest of the benchmark's rows.
        which: `target` or `retain`.
    """
    path = model.path if which == "target" else model.retain_path
    if which == "retain" and model.path is not None and path is None and model.retain_log:
        return digest({"log": file_digest(Path(os.path.expanduser(model.retain_log)))})
    if model.path is None:
        made_of = {"tiny": model.tiny.model_dump(mode="json"), "prompt": model.prompt.model_dump(mode="json")}
        return digest({"recipe": RECIPE, **made_of, "data": data, "which": which})
    folder = Path(os.path.expanduser(path or model.path))
    if not folder.is_dir():
        revision = model.revision if which == "target" else model.retain_revision
        return digest({"hub": path, "revision": revision})
    return digest({file.name: file_digest(file) for file in model_files(folder)})


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that bear on its numbers; none where it is no folder."""
    return sorted(file for file in folder.iterdir() if file.suffix in _MADE_OF) if folder.is_dir() else []


def cache_folder() -> Path:
    """Where models trained by us are kept: the user's cache folder, or UNLEARN_SWEEP_CACHE."""
    return Path(os.environ.get(CACHE) or user_cache_path("unlearn-sweep"))


def cached_model(model: ModelConfig, *, data: str, which: str) -> Path:
    """Where one of them is, once it is trained."""
    return cache_folder() / "models" / model_digest(model, data=data, which=which)


def fingerprint(config: TrialConfig, *, data: str, model: str) -> str:
    """Identity of a trial: its settings, with digests of data and model in the place of paths and devices.

    Args:
        config: The trial.
        data: Digest of the benchmark's rows.
        model: Digest of the target model.
    """
    return digest(with_digests(config.model_dump(mode="json"), data=data, model=model))


def with_digests(trial: dict[str, Any], *, data: str, model: str) -> dict[str, Any]:
    """Settings of a trial as far as they bear on its numbers: digests for places, and not which metrics are taken."""
    kept = {key: trial["model"][key] for key in ("dtype", "adapter", "prompt", "hide_pad")}
    measured = {key: trial["evaluation"][key] for key in ("max_new_tokens", "relearning")}
    rest = {key: value for key, value in trial.items() if key != "log_weights"}
    return rest | {"recipe": RECIPE, "benchmark": data, "model": {"digest": model} | kept, "evaluation": measured}


def log_file(config: TrialConfig, *, data: str, which: str) -> Path:
    """Where the evaluation log of the target or retain model is kept: named by model, data and what is measured."""
    measured = config.evaluation.model_dump(mode="json", exclude={"every", "batch_size"})
    asked = {key: getattr(config.model, key) for key in ("dtype", "hide_pad")}
    names = named((*config.evaluation.metrics, *config.evaluation.front))
    models = {
        each: model_digest(config.model, data=data, which=each)
        for each in sorted(looked_into(names) | {which})
        if each == "target" or config.model.path is None or config.model.retain_path
    }
    made_of = {"models": models, "data": data, "which": which}
    prompt = config.model.prompt.model_dump(mode="json")
    name = digest({"recipe": RECIPE, **made_of, **asked, "prompt": prompt, "evaluation": measured})
    return cache_folder() / "logs" / f"{name}.json"


def file_digest(file: Path) -> list[Any]:
    """Size and hash of a file: of all of it up to 128 MiB, of 512 blocks of a larger one."""
    size, block, blocks = file.stat().st_size, 1 << 18, 512
    sha = hashlib.sha256()
    with open(file, "rb") as stream:
        if size <= block * blocks:
            sha.update(stream.read())
        for index in range(blocks if size > block * blocks else 0):
            stream.seek(index * (size - block) // (blocks - 1))
            sha.update(stream.read(block))
    return [size, sha.hexdigest()]
