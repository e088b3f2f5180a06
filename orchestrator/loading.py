"""A model with its tokenizer from a folder or the hub, whether it is whole or an adapter on another one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from trials.config import ModelConfig


def load_any(folder: str, settings: ModelConfig) -> tuple[Any, Any]:
    """A model or, on the model that it belongs to, an adapter, in eval mode; and its tokenizer.

    Args:
        folder: Folder or hub id; an adapter must be in a folder.
        settings: dtype, device, and revision of what is on the hub.

    Raises:
        OSError, ValueError: There is no such model, or it cannot be used.
    """
    from safetensors import SafetensorError

    try:
        return _loaded(folder, settings)
    except SafetensorError as error:
        raise OSError(f"the weights of {folder!r} cannot be read ({error}); write or fetch them again") from error


def _loaded(folder: str, settings: ModelConfig) -> tuple[Any, Any]:
    from trials.models import load_model, load_tokenizer

    base = adapter_base(folder)
    if base is None:
        return load_model(folder, settings), load_tokenizer(folder, settings)
    import peft

    there = settings.model_copy(update={"revision": base[1]})  # of no effect on a folder
    own = (Path(folder) / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(folder if own else base[0], there)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's to mend
        return peft.PeftModel.from_pretrained(load_model(base[0], there), folder).eval(), tokenizer


def adapter_base(folder: str) -> tuple[str, str | None] | None:
    """Folder or hub id of the model that the adapter in a folder belongs to, and its revision; None: no adapter."""
    file = Path(folder) / "adapter_config.json"
    if not file.exists():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    return config["base_model_name_or_path"], config.get("revision")
