"""The optimiser of a trial: AdamW on fp32 masters, a rate laid out for the full budget, a mask of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trials.config import OptimConfig


class Optimiser:
    """AdamW over a model's trainable parameters.

    In half precision a step of lr 1e-5 is less than the spacing of the weights and rounds away: so it works on fp32
    masters there, and the model's weights are copies of them.
    """

    def __init__(self, config: OptimConfig, parameters: Sequence[Tensor], *, steps: int) -> None:
        """Args: settings; parameters with `requires_grad`; steps of the full budget."""
        self.config, self.parameters, self.steps = config, list(parameters), steps
        half = any(parameter.dtype != torch.float32 for parameter in self.parameters)
        self.masters = [p.detach().float().clone() for p in self.parameters] if half else self.parameters
        self.masks: Sequence[Tensor] = ()
        self._fused = all(master.is_cuda for master in self.masters) or None
        self.adam = torch.optim.AdamW(
            self.masters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=self._fused
        )

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Takes step number `step`, counted from 0, along the gradients of the parameters, which are cleared."""
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(self.config, step, self.steps)
        apart = self.masters is not self.parameters
        for master, parameter in zip(self.masters, self.parameters, strict=True) if apart else ():
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        before = [master[~mask] for master, mask in zip(self.masters, self.masks, strict=True)] if self.masks else []
        self.adam.step()
        # Afterwards and not by the gradients: weight decay moves a weight whose gradient is 0, too.
        for master, mask, old in zip(self.masters, self.masks, before, strict=True) if self.masks else ():
            master[~mask] = old
        self.adam.zero_grad(set_to_none=True)
        for master, parameter in zip(self.masters, self.parameters, strict=True) if apart else ():
            parameter.copy_(master)

    def tensors(self) -> dict[str, Tensor]:
        """Its state for a checkpoint."""
        tensors = {
            f"{index}.{name}": tensor
            for index, master in enumerate(self.masters)
            for name, tensor in self.adam.state.get(master, {}).items()
        }
        if self.masters is not self.parameters:
            tensors |= {f"{index}.master": master for index, master in enumerate(self.masters)}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the state from a checkpoint."""
        for index, master in enumerate(self.masters):
            if f"{index}.step" in tensors:  # a parameter that never had a gradient has no state
                self.adam.state[master] = {
                    name: tensors[f"{index}.{name}"].to("cpu" if name == "step" and not self._fused else master.device)
                    for name in ("step", "exp_avg", "exp_avg_sq")
                }
            if f"{index}.master" in tensors:
                master.data.copy_(tensors[f"{index}.master"])


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """Rate of a step counted from 0: linear warm-up, then constant or linear to 0, laid out for the full budget."""
    warmup = round(config.warmup * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * (total - step) / max(total - warmup, 1)
