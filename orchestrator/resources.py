"""What one trial, or a pack of them, takes of a machine: CPUs, GPUs or a part of one, memory; and what faults cost."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from trials.settings import Frozen

AUTO = "auto"
GIB = 2**30


def _gpu(value: Any) -> Any:
    """A number of GPUs that Ray can give: part of one, or several whole ones; or `auto`."""
    if value == AUTO:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} must be auto or a number of GPUs, 0 or more; write 0, 0.5, 1, 2 or auto")
    if value > 1 and value != int(value):
        whole = f"above 1 it must be a whole number; write {int(value)} or {int(value) + 1}"
        raise ValueError(f"{value:g}: a trial takes a part of one GPU or several whole ones, {whole}")
    return float(value)


Gpu = Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_gpu)]


class Resources(Frozen):
    """What one trial takes; `resources: auto` is short for `{gpu: auto}`."""

    cpu: float = Field(1.0, gt=0)
    gpu: Gpu = Field(
        0.0,
        description="part of one GPU, or whole ones (above 1: with trial.model.device_map); auto: a probe is measured "
        "and as many trials as fit share a GPU, or the memory of a machine without",
    )
    margin: float = Field(0.1, ge=0, lt=1, description="of auto: share of the memory that is left free")
    memory: float | None = Field(
        None, gt=0, description="GiB of the machine's memory that Ray sets aside for a trial; null: it is not counted"
    )
    pack: PositiveInt = Field(
        1, description="LoRA trials that train in one process, in passes that they share; cpu, gpu, memory are a pack's"
    )
    retries: int = Field(2, ge=0, description="times that a trial is run again after an error of its own")
    losses: int = Field(5, ge=0, description="times that a trial is run again after its node or worker was lost")
    timeout_minutes: float | None = Field(
        None, gt=0, description="a trial that ends no epoch for so long hangs: it is killed and fails; null: never"
    )

    @property
    def share(self) -> float:
        """GPUs, or the part of one, that a trial takes, one of a pack too.

        Raises:
            ValueError: It is `auto` and has not been measured.
        """
        if self.gpu == AUTO:
            raise ValueError("resources.gpu is auto and no probe has been measured")
        return _part(float(self.gpu), self.pack)

    @property
    def bundle(self) -> dict[str, float]:
        """The same in Ray's words; memory in bytes."""
        memory = {"memory": float(math.ceil(self.memory * GIB) // self.pack)} if self.memory else {}
        return {"CPU": _part(self.cpu, self.pack), "GPU": self.share} | memory

    @property
    def process(self) -> Resources:
        """What one process takes, whether it runs a trial or a pack of them."""
        return self.model_copy(update={"pack": 1})


def _part(of: float, trials: int) -> float:
    """The share of each of so many trials, in Ray's four decimals: all of them together fit."""
    return of if trials == 1 else math.floor(1e4 * of / trials) / 1e4


def spelt_out(value: Any) -> Any:
    """`resources: auto` as the mapping that it stands for."""
    return {"gpu": AUTO} if value == AUTO else value
