"""Somebody else's sweep as a sweep file of ours, with a line for all that it could not take over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator.config import SweepConfig
from orchestrator.importing.formats import FORMATS, Foreign, read_foreign
from orchestrator.importing.joint import Told
from orchestrator.importing.mapping import Mapper, ignored
from orchestrator.importing.merging import Merged, merge
from orchestrator.importing.names import metric_of
from orchestrator.problems import ConfigError, Problem, did_you_mean, problems_of
from search_spaces.space import SpaceError, with_paths
from trials.config import TrialConfig
from trials.registry import AS_RETAIN, METRICS


@dataclass(frozen=True)
class Imported:
    """A sweep file, and what there is to say of it.

    Attributes:
        text: The file.
        tool: What it was made from, in words.
        remarks: Its lines on what is not mapped, and what else is to be known.
    """

    text: str
    tool: str
    remarks: tuple[str, ...]


def import_sweep(file: Path, tool: str | None = None) -> Imported:
    """Makes a sweep file of another tool's.

    Args:
        file: A W&B or axolotl sweep, or Hydra overrides. Nothing of it is run.
        tool: One of `FORMATS`; None: by the contents.

    Raises:
        ConfigError: The file cannot be read, is of no known format, or nothing of it can be mapped.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(str(file), [Problem("", f"{reason}; name a sweep of another tool")]) from None
    foreign = read_foreign(str(file), text, tool)
    mapper = Mapper()
    blocks = [ours for block in foreign.blocks for ours in mapper.map(block)]
    blocks = blocks or [ours for block in foreign.blocks for ours in mapper.map(block, whole=False)]
    told = mapper.finish()
    for lost in foreign.lost:
        if ignored(lost.what):
            told.left_out[lost.what] = None
        else:
            told.lose(*lost)
    if not blocks:
        found = [Problem("", f"{what}: {why}") for what, why in told.lost] or [Problem("", "no settings in it")]
        nothing = Problem("", f"nothing of it could be mapped as {FORMATS[foreign.tool]}; write a sweep file")
        raise ConfigError(str(file), [nothing, *found])
    sweep = _sweep(file, foreign, merge(blocks, told), told)
    return Imported(_written(file, foreign, sweep, told), FORMATS[foreign.tool], tuple(_remarks(told)))


# -- the parts of a sweep file -----------------------------------------------------------------------------------------


def _sweep(file: Path, foreign: Foreign, merged: Merged, told: Told) -> dict[str, Any]:
    trial = with_paths({}, merged.trial)
    if "benchmark" not in trial:
        told.note("no benchmark is named: the embedded authors; write trial.benchmark")
    if "loss" not in trial and "loss.criterion" not in merged.space:
        told.note("no method is named: the loss is at its default, SatImp; write trial.loss")
    sweep: dict[str, Any] = {
        "name": _name(foreign.name or file.name.partition(".")[0]),
        "description": f"imported from {FORMATS[foreign.tool]}",
        "trial": {name: trial[name] for name in TrialConfig.model_fields if name in trial},
        "space": merged.space,
    }
    sweep |= _objectives(foreign, told)
    if merged.paired:
        sweep["sampler"] = {"type": "ablation", "design": "paired", "values": merged.paired}
    else:
        sweep["sampler"] = {"type": foreign.sampler}
    if merged.replicates > 1:
        sweep["replicates"] = merged.replicates
    sweep["scheduler"] = _scheduler(foreign, sweep, told)
    sweep = {key: value for key, value in sweep.items() if value != {}}
    trials = _trials(foreign, merged, sweep)
    if trials:
        sweep["budget"] = {"trials": trials}
    else:
        told.note("no number of runs is given: 64 trials; write budget.trials")
    for message in _wrong(sweep):
        told.note(f"to be mended: {message}")
    return sweep


def _name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")[:100]
    return name or "imported"


def _objectives(foreign: Foreign, told: Told) -> dict[str, Any]:
    if foreign.metric is None:
        return {}
    theirs, direction = foreign.metric
    ours = metric_of(theirs)
    if ours is None:
        near = did_you_mean(theirs, METRICS)
        near = near.removeprefix("; ") if "did you mean" in near else "write objectives; docs/metrics.md lists them"
        told.lose(f"metric {theirs}", f"no metric of that name; {near}")
        return {}
    if METRICS[ours].better in (AS_RETAIN, "near 0"):
        told.lose(f"metric {theirs}", f"{ours} is best {METRICS[ours].better}, neither low nor high; write objectives")
        return {}
    told.note(f"one objective, {ours}: a front wants another, as in retain.extraction_strength: max")
    return {"objectives": {ours: direction}}


def _scheduler(foreign: Foreign, sweep: dict[str, Any], told: Told) -> dict[str, Any]:
    """W&B's hyperband as successive halving: its iterations are epochs here."""
    stopping = foreign.stopping
    if not stopping:
        return {"type": "none"}
    metric = next(iter(sweep.get("objectives", {})), None)
    eta = stopping.get("eta", 3)
    least = stopping.get("min_iter")
    if least is None and isinstance(stopping.get("max_iter"), int) and isinstance(eta, int) and eta > 1:
        least = max(1, int(stopping["max_iter"] / eta ** int(stopping.get("s", 1))))
    epochs = sweep["trial"].get("epochs", 8)
    if not isinstance(least, int) or not isinstance(eta, int) or eta < 2 or least < 1:
        told.lose("early_terminate", "no whole min_iter and eta of 2 or more; write scheduler")
    elif least >= epochs:
        told.lose("early_terminate", f"its first stop, {least}, is after the {epochs} epochs; write scheduler")
    elif metric and METRICS[metric].cost != "one pass":
        told.lose("early_terminate", f"{metric} takes {METRICS[metric].cost}; rungs compare metrics of one pass only")
    else:
        told.note(f"early_terminate: iterations are epochs here, the first stop is after {least}")
        halving = {"grace_period": least, "reduction_factor": eta}
        return {"type": "asha", "metric": metric, **halving} if metric else {"type": "pareto_asha", **halving}
    return {"type": "none"}


def _trials(foreign: Foreign, merged: Merged, sweep: dict[str, Any]) -> int | None:
    """What the file says, or what its design comes to."""
    points = None
    if merged.paired:
        points = len(next(iter(merged.paired.values())))
    elif foreign.sampler == "grid":
        try:
            points = SweepConfig.model_validate(sweep).search_space.size()
        except (ValidationError, SpaceError):
            points = None
    whole = points * merged.replicates if points else None
    return min(filter(None, (whole, foreign.trials)), default=None)


def _wrong(sweep: dict[str, Any]) -> list[str]:
    """What would be refused of the file, whatever data and models there are."""
    try:
        config = SweepConfig.model_validate(sweep)
        for corner in config.search_space.corners():
            config.trial_at(corner)
    except SpaceError as error:
        return [f"space.{error.path}: {error}"]
    except ValidationError as error:
        return [f"{problem.path}: {problem.message}" for problem in problems_of(error, sweep, SweepConfig)]
    return []


# -- the file ----------------------------------------------------------------------------------------------------------


def _remarks(told: Told) -> list[str]:
    lines = [f"not mapped: {_line(what)} ({_line(why)})" for what, why in told.lost]
    lines += [f"note: {_line(text)}" for text in told.notes]
    if told.left_out:
        lines.append(f"left out, for it changes no result here: {_line(', '.join(told.left_out))}")
    return lines


def _line(text: str) -> str:
    """On one line, whatever is in it: nothing of another file may end a comment."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= 400 else f"{line[:400]} .."


def _written(file: Path, foreign: Foreign, sweep: dict[str, Any], told: Told) -> str:
    head = [f"# Made by `unlearn-sweep import` from {_line(file.name)}, {FORMATS[foreign.tool]}."]
    head += [f"# {line}" for line in _remarks(told)]
    shown = sweep | ({"space": _in_lines(sweep["space"])} if "space" in sweep else {})
    body = yaml.dump(shown, Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=None, allow_unicode=True)
    return "\n".join(head) + "\n" + body


class _InLine(dict[str, Any]):
    """A mapping that is written in one line."""


class _Dumper(yaml.SafeDumper):
    """Without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _InLine, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)


def _in_lines(node: Any) -> Any:
    """A node of a space with each range, choice and case in a line of its own."""
    if isinstance(node, list):
        return [_in_lines(case) for case in node]
    if isinstance(node, dict) and {"float", "int", "choice"} & set(node):
        return _InLine(node)
    return {key: _in_lines(value) for key, value in node.items()} if isinstance(node, dict) else node


def write_import(imported: Imported, to: Path) -> None:
    """Writes the file; never over one that is there.

    Raises:
        ConfigError: There is one, or no place for it.
    """
    try:
        with open(to, "x", encoding="utf-8") as out:
            out.write(imported.text)
    except FileExistsError:
        raise ConfigError("--to", [Problem("", f"{str(to)!r} is there; give another name, or move it away")]) from None
    except OSError as error:
        raise ConfigError("--to", [Problem("", f"{str(to)!r}: {error.strerror}; give another place")]) from None
