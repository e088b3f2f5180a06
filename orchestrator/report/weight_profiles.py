"""The weights of trials as their records tell them: read back, written as a table, put into words for the report.

The numbers are metrics of epochs, made by `trials.weight_profile` where `log_weights` is on. A trial without them, as
its loss has no weights, is not here at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from orchestrator.events import Epoch, Event, Record, Suggested
from orchestrator.report.document import Block, Cell, Heading, Paragraph, Picture, Table, number
from orchestrator.results.front import Objectives, Summary, front_of, knee_of
from trials.weight_profile import BINS
from trials.weighting import Criterion

FILES = ("weights.png", "weights.csv")
"""In the folder of a trial: the figure, and what it shows."""

COLUMNS = (
    "criterion", "trial_id", "epoch", "effective", "least_likely_tenth", "p_from", "p_to", "share_of_tokens",
    "mean_weight",
)  # fmt: skip
ORDER = [criterion.model_fields["type"].default for criterion in get_args(Criterion)]


@dataclass(frozen=True)
class Profile:
    """Weight against p after one epoch.

    Attributes:
        epoch: Which.
        effective: Effective sample size over the number of tokens, in [0, 1].
        least_likely_tenth: Share of all weight on the tenth of the tokens that are least likely.
        tokens: For each bin of p its share of the tokens.
        means: For each bin the mean weight of its tokens; None where it has none.
    """

    epoch: int
    effective: float
    least_likely_tenth: float
    tokens: tuple[float, ...]
    means: tuple[float | None, ...]


@dataclass(frozen=True)
class History:
    """The profiles of one trial, at least one, by epoch.

    Attributes:
        trial_id: Of the trial; empty for one that is no sweep's.
        criterion: `type` of its criterion.
        settings: Criterion, granularity and selection in words.
        profiles: In the order of the epochs.
    """

    trial_id: str
    criterion: str
    settings: str
    profiles: tuple[Profile, ...]

    @property
    def last(self) -> Profile:
        """After the last epoch."""
        return self.profiles[-1]


def tabled(names: Iterable[str]) -> list[str]:
    """Names of metrics for a table or a line of text: without the twenty of the bins, which are for figures."""
    return [name for name in names if not re.fullmatch(r"weights\.p\d+_(tokens|mean)", name)]


def history_of(trial_id: str, config: Mapping[str, Any], epochs: Mapping[int, Mapping[str, float]]) -> History | None:
    """The weights of one trial, None where no epoch has any.

    Args:
        trial_id: Of the trial.
        config: The whole trial, as in its record.
        epochs: Epoch -> metrics.
    """
    profiles = tuple(_profile(epoch, epochs[epoch]) for epoch in sorted(epochs) if "weights.effective" in epochs[epoch])
    if not profiles:
        return None
    loss = config.get("loss", {})
    criterion = loss.get("criterion", {})
    parts = [_words(criterion)]
    for name, plain in (("granularity", "token"), ("selection", "all")):
        if loss.get(name, {}).get("type", plain) != plain:
            parts.append(f"{name} {_words(loss[name])}")
    return History(trial_id, str(criterion.get("type", "?")), ", ".join(parts), profiles)


def histories(events: Iterable[Event], trial_ids: Iterable[str] | None = None) -> dict[str, History]:
    """trial_id -> its weights, of trials that have some.

    Args:
        events: Of a run folder. An epoch that a resumed trial repeated counts once.
        trial_ids: Only of these; None for all.
    """
    wanted = None if trial_ids is None else set(trial_ids)
    configs: dict[str, dict[str, Any]] = {}
    epochs: dict[str, dict[int, Mapping[str, float]]] = {}
    for event in events:
        if not isinstance(event, Suggested | Epoch) or (wanted is not None and event.trial_id not in wanted):
            continue
        if isinstance(event, Suggested):
            configs[event.trial_id] = event.config
        else:
            epochs.setdefault(event.trial_id, {})[event.epoch] = event.metrics
    found = {trial_id: history_of(trial_id, config, epochs.get(trial_id, {})) for trial_id, config in configs.items()}
    return {trial_id: history for trial_id, history in found.items() if history is not None}


def weights_table(shown: Iterable[History]) -> Table:
    """A line for each trial, epoch and bin of p that has tokens."""
    rows: list[list[Cell]] = []
    for history in shown:
        for p in history.profiles:
            same: list[Cell] = [history.criterion, history.trial_id, p.epoch, p.effective, p.least_likely_tenth]
            for index, (tokens, mean) in enumerate(zip(p.tokens, p.means, strict=True)):
                if mean is not None:
                    rows.append([*same, index / BINS, (index + 1) / BINS, tokens, mean])
    return Table(COLUMNS, rows)


# -- in the report -----------------------------------------------------------------------------------------------------


def of_each_criterion(summary: Summary, found: Mapping[str, History]) -> list[tuple[History, Record]]:
    """One trial of each criterion: the knee of its full-budget trials, or what got furthest where there is none."""
    members: dict[str, list[Record]] = {}
    for record in summary.records:
        if record.trial_id in found:
            members.setdefault(found[record.trial_id].criterion, []).append(record)
    best = [
        _best(members[kind], summary.info.objectives) for kind in dict.fromkeys([*ORDER, *members]) if kind in members
    ]
    return [(found[record.trial_id], record) for record in best]


def section(chosen: Sequence[tuple[History, Record]], png: bytes) -> list[Block]:
    """What the report says of weights: nothing where no trial has any.

    Args:
        chosen: What is shown, see `of_each_criterion`.
        png: The figure of them.
    """
    if not chosen:
        return []
    said = (
        "Which tokens of the forget set are pushed, by how likely they are to the model: of each criterion the knee of "
        "its full-budget trials, or what got furthest. Where all tokens weigh alike, the effective sample "
        "((sum w)^2 / sum w^2, over the number of tokens) is 1 and the least likely tenth of the tokens has 0.1 of the "
        "weight. Each trial's own figure is weights.png in its folder."
    )
    caption = (
        "Above: mean weight of the tokens in each tenth of p, a line an epoch, from light (first) to dark (last). "
        "Below, after the last epoch: where the tokens are (filled), and where the weight is (outlined)."
    )
    rows = [
        [h.settings, h.trial_id, record.label, record.state, h.last.epoch, h.last.effective, h.last.least_likely_tenth]
        for h, record in chosen
    ]
    header = ["weights", "trial", "setting", "state", "epoch", "effective sample", "on the least likely tenth"]
    picture = Picture("figures/weights.png", png, "Weight against likelihood, by criterion", caption)
    return [Heading("Weights"), Paragraph((said,)), picture, Table(header, rows)]


def _best(members: Sequence[Record], objectives: Objectives) -> Record:
    knee = knee_of(front_of(members, objectives), objectives)
    return knee or max(members, key=lambda r: (r.state != "FAIL", r.label is not None, r.epoch))


def _profile(epoch: int, metrics: Mapping[str, float]) -> Profile:
    return Profile(
        epoch=epoch,
        effective=metrics["weights.effective"],
        least_likely_tenth=metrics.get("weights.least_likely_tenth", 0.0),
        tokens=tuple(metrics.get(f"weights.p{index}_tokens", 0.0) for index in range(BINS)),
        means=tuple(metrics.get(f"weights.p{index}_mean") for index in range(BINS)),
    )


def _words(node: Mapping[str, Any]) -> str:
    """A variant of a union with its settings: `satimp (beta1 5, beta2 0.1)`."""
    settings = ", ".join(
        f"{name} {number(value)}" if isinstance(value, float) else f"{name} {value}"
        for name, value in node.items()
        if name != "type"
    )
    kind = str(node.get("type", "?"))
    return f"{kind} ({settings})" if settings else kind
