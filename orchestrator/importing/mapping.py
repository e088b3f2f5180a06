"""From the names of another tool to our paths: one block of its sweep becomes blocks of ours, a method each."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.importing.joint import Told, argument_of, batch, benchmark, betas, first, prompt, translated, warmup
from orchestrator.importing.names import (
    ACCUMULATION,
    ALIASES,
    ARGUMENTS,
    BATCH,
    EXPERIMENTS,
    GROUPS,
    IGNORED,
    LOSSES,
    METHOD_KEYS,
    METHOD_PATHS,
    TRAINERS,
    VALUES,
    WHY,
    Method,
    preset,
)
from orchestrator.importing.values import Axis, Block, Range
from orchestrator.problems import did_you_mean, models_in, problems_of
from search_spaces.space import with_paths
from trials.config import TrialConfig
from trials.presets import PRESETS

NONE_OF_OURS = "none of our methods; `unlearn-sweep presets` lists these"
_BY_TYPE = {PRESETS[label][0]["criterion"]["type"] for label in PRESETS}
_ARGUMENTS = {name for method in (*TRAINERS.values(), *LOSSES.values()) for name in method.arguments}
_UNNAMED = Method({"loss.criterion.type": "satimp"}, {n: f"loss.criterion.{n}" for n in ("beta1", "beta2")})
_ELSEWHERE = {*BATCH, *ACCUMULATION, "warmup_epochs", "adam_beta1", "adam_beta2", "model"}
"""Names that are read together with others."""


def _paths(model: type[Any], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        found |= {f"{prefix}{name}"} if not inner else set()
        found |= {path for each in inner for path in _paths(each, f"{prefix}{name}.")}
    return found


PATHS = _paths(TrialConfig) | {"loss.criterion", "loss.granularity"}
"""Every path of a trial, whatever the variants."""


class Mapper:
    """Maps blocks; `told` is what could not be mapped, and what else there is to say."""

    def __init__(self) -> None:
        self.told = Told()
        self._taken: set[str] = set()
        self._untaken: dict[str, str] = {}

    def map(self, block: Block, *, whole: bool = True) -> list[Block]:
        """Blocks of ours, paths instead of names, for one of another tool: one for each method in it.

        Args:
            block: What the other tool runs.
            whole: None for a method that is none of ours; else what is left of the block without it.
        """
        names = {_short(name): axis for name, axis in block.items()}
        names = self._with_experiment(names)
        key, labels = self._method_axis(names)
        rest = {name: axis for name, axis in names.items() if name != key}
        found = []
        for label in labels:
            method = _method(key, label)
            if method is None:
                self.told.lose(f"{key}={label}", NONE_OF_OURS)
            else:
                found.append(self._mapped(rest, method))
        if labels and not found and not whole:
            rest = {name: axis for name, axis in rest.items() if name.removeprefix(ARGUMENTS) not in _ARGUMENTS}
        if not found and not (labels and whole):
            found = [self._mapped(rest, self._implied(rest))]
        return [each for each in found if each]

    def finish(self) -> Told:
        """All that there is to say: an argument is lost only if it is of none of the methods."""
        for name, why in self._untaken.items():
            if name not in self._taken:
                self.told.lose(name.removeprefix(ARGUMENTS), why)
        return self.told

    # -- what other names are read by ----------------------------------------------------------------------------------

    def _with_experiment(self, names: Block) -> Block:
        """With what OpenUnlearning's experiment file sets, under what is set beside it."""
        axis = names.pop("experiment", None)
        if not isinstance(axis, tuple):
            return names
        label = str(axis[0]).removesuffix(".yaml")
        kind = re.match(r"unlearn/(\w+)", label)
        if kind and kind[1] in EXPERIMENTS:
            defaults: Block = {name: (value,) for name, value in EXPERIMENTS[kind[1]].items()}
            self.told.note(f"what experiment={label} sets and the file does not is OpenUnlearning's default")
            if kind[1] == "muse":
                corpus = names.get("data_split", ("News",))
                defaults["pretrained_model_name_or_path"] = (f"muse-bench/MUSE-{first(corpus)}_target",)
            return defaults | names
        wmdp = (
            "; wmdp wants files: write trial.benchmark: {type: wmdp, path: DIR}" if kind and kind[1] == "wmdp" else ""
        )
        self.told.lose(f"experiment={label}", f"its defaults are not known here{wmdp or '; write what it sets'}")
        return names

    def _method_axis(self, names: Block) -> tuple[str, tuple[Any, ...]]:
        """The name that says the method, and its values."""
        for key in (*METHOD_KEYS, *METHOD_PATHS):
            axis = names.get(key)
            if isinstance(axis, tuple) and all(isinstance(value, str) for value in axis):
                return key, axis
        return "", ()

    def _implied(self, names: Block) -> Method | None:
        """SatImp, where nothing says the method and there is a `beta1` that cannot be Adam's."""
        axis = names.get("beta1", names.get(f"{ARGUMENTS}beta1", (0,)))
        top = axis.high if isinstance(axis, Range) else max((v for v in axis if isinstance(v, int | float)), default=0)
        if top < 1:
            return None
        self.told.note("no method is named; beta1 is 1 or more, so that it is SatImp's and not Adam's")
        return _UNNAMED

    # -- one method ----------------------------------------------------------------------------------------------------

    def _mapped(self, names: Block, method: Method | None) -> Block:
        out: Block = {path: (value,) for path, value in (method.settings if method else {}).items()}
        theirs = {name.lower(): axis for name, axis in names.items()}
        batch(theirs, out, self.told)
        for name, axis in names.items():
            self._one(name, axis, method, out)
        warmup(theirs, out, self.told)
        betas(theirs, out, self.told)
        prompt(theirs, out, self.told)
        benchmark(out, self.told)
        if any(path.startswith("model.adapter.") for path in out):
            out.setdefault("model.adapter.type", ("lora",))
        if out.get("loss.retain.term") == ("none",) and out["loss.retain.coefficient"] != (1.0,):
            term = "none" if out["loss.retain.coefficient"] in ((0,), (0.0,)) else "nll"
            out["loss.retain.term"] = (term,)
        return self._valid(out, method.settings if method else {})

    def _one(self, name: str, axis: Axis, method: Method | None, out: Block) -> None:
        argument, lower = name.removeprefix(ARGUMENTS), name.lower()
        path = (method.arguments if method else {}).get(argument)
        if path is not None:
            self._taken.add(name)
            argument_of(argument, path, axis, out, self.told)
        elif name in PATHS:
            out[f"{name}.type" if name in ("loss.criterion", "loss.granularity") else name] = axis
        elif lower in ALIASES and argument == name:
            if "qlora" in (axis if isinstance(axis, tuple) else ()):
                self.told.lose("qlora", WHY["load_in_4bit"])
            out[ALIASES[lower]] = translated(ALIASES[lower], axis)
        elif argument in _ARGUMENTS or argument != name:
            self._untaken.setdefault(name, WHY.get(argument, "no argument of its method here; drop it"))
        elif lower in ("bf16", "fp16") and axis == (True,):
            out["model.dtype"] = (VALUES["model.dtype"][lower],)
        elif lower in ("optimizer", "optim") and isinstance(axis, tuple) and all("adamw" in str(v) for v in axis):
            self.told.left_out[name] = None  # what ours is
        elif isinstance(axis, tuple) and (axis[0] is False or axis[0] in (None, "")) and len(axis) == 1:
            self.told.left_out[name] = None  # what is switched off changes nothing
        elif lower not in _ELSEWHERE:
            self._unknown(name)

    def _unknown(self, name: str) -> None:
        lower = name.lower()
        if ignored(name):
            self.told.left_out[name] = None
            return
        near = did_you_mean(lower, {*ALIASES, *PATHS})
        near = near.removeprefix("; ") if "did you mean" in near else "write the setting that it means, or drop it"
        self.told.lose(name, WHY.get(lower, f"no setting of that name; {near}"))

    def _valid(self, out: Block, trusted: Mapping[str, Any]) -> Block:
        """Without the values that a trial refuses."""
        chosen = {path: value for path, value in trusted.items() if _chooses(path)}
        kept: Block = {}
        for path in sorted(out, key=lambda path: not _chooses(path)):  # what others depend on first
            axis = out[path]
            values = (axis.low, axis.high) if isinstance(axis, Range) else axis
            fine = {path: value for path, value in chosen.items() if path not in out or path in kept or path in trusted}
            wrong = {value: why for value in values if (why := _refused(tuple(fine.items()), path, value))}
            for value, why in wrong.items():
                self.told.lose(f"{path}={value}", why)
            rest = () if isinstance(axis, Range) else tuple(value for value in axis if value not in wrong)
            if rest or not wrong:
                kept[path] = rest or axis
                lora = path == "model.adapter.type" and "lora" in values  # the one that has settings
                chosen |= {path: "lora" if lora else first(kept[path])} if _chooses(path) else {}
        return {path: kept[path] for path in out if path in kept}


def ignored(name: str) -> bool:
    """Whether a name of theirs is no setting of a trial."""
    lower = _short(name).lower()
    return lower not in WHY and any(fnmatch.fnmatch(lower, pattern) for pattern in IGNORED)


def _chooses(path: str) -> bool:
    return path.endswith(".type") or path in ("loss.retain.term", "model.path")


def _short(name: str) -> str:
    """A name without the groups in front of it; an argument of a method keeps its own."""
    name = name.lstrip("+~-").removeprefix("trial.")
    if name.startswith(("method_args.", "trainer.method_args.")):
        return ARGUMENTS + name.rpartition("method_args.")[2]
    if name in PATHS:
        return name
    for group in GROUPS:
        if name.startswith(group):
            return name.removeprefix(group)
    last = name.replace("/", ".").rpartition(".")[2]
    return last if last.lower() in ALIASES and "." in name and name.lower() not in ALIASES else name


def _method(key: str, label: str) -> Method | None:
    if key in ("loss_type", "forget_loss") and label in LOSSES:
        return LOSSES[label]
    trainer = {name.lower(): method for name, method in TRAINERS.items()}.get(label.lower())
    if trainer and (key == "trainer" or label not in _BY_TYPE):
        return trainer
    if label in _BY_TYPE and key != "loss.preset":
        arguments = trainer.arguments if trainer else {}
        own = {name: path for name, path in arguments.items() if path.startswith("loss.criterion.")}
        return Method({"loss.criterion.type": label}, own)
    return Method(preset(label), {}) if label in PRESETS else LOSSES.get(label)


@functools.cache
def _refused(chosen: tuple[tuple[str, Any], ...], path: str, value: Any) -> str:
    """Why a trial with these variants refuses a value; "" if it does not."""
    raw = with_paths(TrialConfig().model_dump(mode="json"), {**dict(chosen), path: value})
    try:
        TrialConfig.model_validate(raw)
    except ValidationError as error:
        return problems_of(error, raw, TrialConfig)[0].message
    return ""
