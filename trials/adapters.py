"""Several LoRA adapters on one frozen model: one pass over everybody's rows, each row under its member's adapter.

The model's weights are there once. Each linear layer that has an adapter projects all rows together and adds to each
member's segment of rows what that member's adapter makes of it.

Shape suffixes: K members, B rows of all members, M what a member has of rows (and positions), I inputs and O outputs of
a layer, R the largest rank.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Adapter:
    """What LoRA adds to a linear layer: x down^T up^T scaling."""

    down_RI: Tensor
    up_OR: Tensor
    scaling: float


@dataclass
class _Segments:
    """Whose rows are passing, in their order; nobody's: the bare model passes."""

    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


class Shared:
    """A frozen model that rows of several members pass together.

    Attributes:
        model: Behaves like one model; between `passing` it is the bare one.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self._segments = shallow_copy(model).requires_grad_(False).train(), _Segments()

    def add(self, name: str, adapted: Any) -> None:
        """Takes in the adapter of a peft model, whose tensors stay its own."""
        for place, layer in adapters_of(adapted).items():
            module = self.model.get_submodule(place)
            if not isinstance(module, _Layer):
                module = _Layer(module, self._segments)
                self.model.set_submodule(place, module)
            module.adapters[name] = layer

    def remove(self, name: str) -> None:
        """Lets go of a member's adapter."""
        for module in self.model.modules():
            if isinstance(module, _Layer):
                module.adapters.pop(name, None)

    @contextlib.contextmanager
    def passing(self, names: Sequence[str], rows: Sequence[int]) -> Iterator[None]:
        """While batches are of so many rows of each of these members, one member after the other."""
        self._segments.names, self._segments.rows = list(names), list(rows)
        try:
            yield
        finally:
            self._segments.names, self._segments.rows = [], []


class _Layer(torch.nn.Module):
    """A linear layer under the adapters of several members."""

    def __init__(self, base: torch.nn.Module, segments: _Segments) -> None:
        super().__init__()
        self.base, self.segments = base, segments
        self.adapters: dict[str, Adapter] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Of shape (B, ..., I), or with rows and positions in one dimension."""
        if not self.segments.names:
            return self.base(x)  # type: ignore[no-any-return]
        adapters = [self.adapters.get(name) for name in self.segments.names]
        there = [adapter for adapter in adapters if adapter]
        if len(there) == len(adapters) and len(set(self.segments.rows)) == 1:
            return batched(x, self.base, there)
        return one_by_one(x, self.base(x), adapters, self.segments.rows)


def batched(x: Tensor, base: Callable[[Tensor], Tensor], adapters: Sequence[Adapter]) -> Tensor:
    """base(x) plus what each adapter makes of its share of x; shares are of equal size. Lower ranks are filled up."""
    down_KRI, up_KOR = _stacked([each.down_RI for each in adapters], 0), _stacked([each.up_OR for each in adapters], 1)
    scalings = [each.scaling for each in adapters]
    # A number of all is no transfer to the device, and this happens in every layer.
    scaling = scalings[0] if len(set(scalings)) == 1 else down_KRI.new_tensor(scalings)[:, None, None]
    x_KMI = x.reshape(len(adapters), -1, x.shape[-1])
    y_KMO = base(x_KMI)  # nobody else's: the sum goes where it is
    added_KMR = (x_KMI.to(down_KRI.dtype) @ down_KRI.mT) * scaling
    y_KMO = y_KMO.to(down_KRI.dtype).baddbmm_(added_KMR, up_KOR.mT).to(y_KMO.dtype)
    return y_KMO.view(*x.shape[:-1], -1)


def _stacked(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Matrices as one tensor, filled up with zeros along a dimension to the longest."""
    longest = max(part.shape[dim] for part in parts)
    short = [longest - part.shape[dim] for part in parts]
    if any(short):
        parts = [pad(part, (0, 0, 0, n) if dim == 0 else (0, n)) for part, n in zip(parts, short, strict=True)]
    return torch.stack(list(parts))


def one_by_one(x: Tensor, y: Tensor, adapters: Sequence[Adapter | None], rows: Sequence[int]) -> Tensor:
    """`batched` for shares of any size, of `rows` rows each, some of them without an adapter."""
    sizes = [number * (len(x) // sum(rows)) for number in rows]  # more where positions are in the same dimension
    parts = []
    for adapter, x_MI, y_MO in zip(adapters, x.split(sizes), y.split(sizes), strict=True):
        if adapter is None:
            parts.append(y_MO)
            continue
        added = linear(linear(x_MI.to(adapter.down_RI.dtype), adapter.down_RI), adapter.up_OR)
        parts.append((y_MO + added * adapter.scaling).to(y.dtype))
    return torch.cat(parts)


def shallow_copy(model: PreTrainedModel) -> Any:
    """A copy of a model's modules that has the very weights and buffers of the original."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def adapters_of(adapted: Any) -> Mapping[str, Adapter]:
    """Path of a linear layer -> its adapter, of a peft model."""
    return {
        place: Adapter(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
        for place, layer in _lora_layers(adapted).items()
        for name in layer.active_adapters
    }


def why_not(adapted: Any) -> str | None:
    """Why rows of a peft model cannot pass together with those of others; None if they can."""
    from peft.tuners.lora.layer import Linear  # slow to import, and full fine-tuning does without

    settings = adapted.get_base_model().config.get_text_config().to_dict()
    # Of attention it is a setting and no module; `classifier_dropout` is of models with another head.
    drawing = [name for name in settings if ("drop" in name and "classifier" not in name) or "jitter" in name]
    drawn = [settings[name] for name in drawing]
    if any(isinstance(value, float) and value > 0 for value in drawn) or any(
        isinstance(each, torch.nn.Dropout) and each.p > 0 for each in adapted.modules()
    ):
        return "dropout draws numbers, and what is drawn would depend on who else is there"
    for place, layer in _lora_layers(adapted).items():
        if type(layer) is not Linear or not isinstance(layer.base_layer, torch.nn.Linear | Conv1D):
            return f"its adapter sits on {place}, which is no linear layer"
        if layer is adapted.get_output_embeddings() or ".experts." in place:
            return f"its adapter sits on {place}, which sees some of the rows' tokens only"
    return None


def _lora_layers(adapted: Any) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {place: each for place, each in adapted.get_base_model().named_modules() if isinstance(each, LoraLayer)}
