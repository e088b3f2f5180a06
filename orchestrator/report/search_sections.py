"""What a report says of the search: what parts of a setting do, methods at equal cost, parameters, epochs, cost."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.report.document import Block, Cell, Estimate, Facts, Heading, Paragraph, Picture, Table, number
from orchestrator.report.drawing import Plot
from orchestrator.report.parameter_figures import MOST, axes_of
from orchestrator.report.phrasing import ORIGINS, count, duration, enumerated, reference, setting_words, share, some
from orchestrator.results.effects import AblationTable, Delta
from orchestrator.results.findings import Findings
from orchestrator.results.front import settings_of

Plots = Mapping[str, Plot]

_DESIGNS = {
    "one_factor": "each value alone",
    "leave_one_out": "each part alone set back to the sweep's own trial",
    "factorial": "all combinations",
    "paired": "values together, one after the other",
}


def picture(plot: Plot, alt: str, caption: str) -> Picture:
    """A figure with its words."""
    return Picture(f"figures/{plot.name}.png", plot.png, alt, caption)


# -- what a part of a setting does -------------------------------------------------------------------------------------


def ablations(found: Findings) -> list[Block]:
    """For each phase of ablation: the objectives, what else changes, and for a factorial main effects."""
    blocks: list[Block] = []
    objectives = list(found.summary.info.objectives)
    for place, table in enumerate(found.ablations, start=1):
        name = "ablation" if len(found.ablations) == 1 else f"ablation_{place}"
        blocks += [
            Heading(f"Ablation: {_DESIGNS.get(table.design, table.design)}"),
            Paragraph((f"{_base(table, found)}{_ablation_words(table, objectives)}",)),
            _designs(table, objectives, name),
        ]
        others = [metric for metric in table.metrics if metric not in objectives]
        if others:
            words = f"Differences to {table.base} in other metrics:"
            rows = [[row.design, *(_difference(row.delta.get(m)) for m in others)] for row in table.rows if row.delta]
            blocks += [Paragraph((words,)), Table(["design", *others], rows, name=f"{name}_others")]
        if table.design == "factorial" and not table.effects:
            lacking = "Main effects are not told: no seed has all combinations of this phase, complete."
            blocks.append(Paragraph((lacking,)))
        if table.effects:
            blocks.append(Paragraph(("Main effects: mean of all with a value, minus the mean of all.",)))
            blocks.append(_main_effects(table, f"{name}_effects"))
    return blocks


def _base(table: AblationTable, found: Findings) -> str:
    """Which trial the others are compared with, and what it is now that all is known."""
    runs = next(row.runs for row in table.rows if row.design == table.base)
    first = next((run for run in runs if run.of is None), None)
    if first is None or table.base != "base":
        return ""
    summary = found.summary
    settings = settings_of(first, summary.suggested[first.trial_id], summary.info.config.get("trial", {}))
    words = setting_words(settings) or "all settings as in the sweep's own trial"
    knee = found.knee
    now = ""
    if first.origin == "search":
        now = " Its first seed is that of the search, picked for how it came out."
        if knee is not None and knee.trial_id != first.trial_id:
            now += f" It was the knee when the ablation began; with all seeds, that is trial {knee.trial_id}."
    return f"The base is trial {first.trial_id}: {words}.{now} "


def _ablation_words(table: AblationTable, objectives: list[str]) -> str:
    deltas = {(row.design, m): d for row in table.rows for m, d in row.delta.items() if m in objectives}
    pairs = max((delta.pairs for delta in deltas.values()), default=0)
    said = f"Differences to {table.base}, paired by seed."
    if pairs < 2:
        return f"{said} One seed each: there is no interval, and a difference may be noise." if pairs else said
    sizes = sorted(
        ((key, delta) for key, delta in deltas.items() if _clear(delta)), key=lambda pair: -abs(pair[1].mean)
    )
    clear = [f"{design} ({metric} {delta.mean:+.3g})" for (design, metric), delta in sizes]
    found = f"Beyond noise: {some(clear)}." if clear else "None is beyond noise."
    return (
        f"{said} In brackets 95 % intervals (Student's t over seeds), in the last column how many seeds agree in sign. "
        f"{found} Of {len(deltas)} differences, one in twenty would look so by chance."
    )


def _clear(delta: Delta) -> bool:
    return delta.low is not None and delta.high is not None and (delta.low > 0 or delta.high < 0)


def _difference(delta: Delta | None) -> Cell:
    return None if delta is None else Estimate(delta.mean, delta.low, delta.high)


def _designs(table: AblationTable, objectives: list[str], name: str) -> Table:
    rows: list[list[Cell]] = []
    for row in table.rows:
        states = [f"{n} {word}" for word, n in (("stopped", row.counts["PRUNED"]), ("failed", row.counts["FAIL"])) if n]
        states += [f"{row.running} not ended"] if row.running else []
        cells: list[Cell] = [row.design, row.counts["COMPLETE"], ", ".join(states) or None]
        for metric in objectives:
            cells += [row.mean.get(metric), _difference(row.delta.get(metric))]
        agree = [f"{d.agree} of {d.pairs}" for m in objectives if (d := row.delta.get(m)) is not None]
        rows.append([*cells, ", ".join(agree) or None])
    header = ["design", "seeds", "not complete"]
    header += [part for metric in objectives for part in (metric, f"difference in {metric}")]
    return Table([*header, "same sign"], rows, name=name)


def _main_effects(table: AblationTable, name: str) -> Table:
    rows: list[list[Cell]] = []
    for effect in table.effects:
        deltas = [_difference(effect.delta.get(metric)) for metric in table.metrics]
        rows.append([effect.path, str(effect.value), *deltas])
    return Table(["path", "value", *table.metrics], rows, name=name)


# -- methods and parameters --------------------------------------------------------------------------------------------


def methods(found: Findings, plots: Plots) -> list[Block]:
    """What each method reaches for the same number of epochs."""
    if "methods" not in plots:
        return []
    rows: list[list[Cell]] = []
    for m in found.methods.rows:
        drawn = None if m.at_budget is None else Estimate(m.at_budget, m.low, m.high)
        single = m.published and m.at_budget is not None
        reached = Estimate(m.at_budget or 0.0) if single else drawn
        kind = "published setting" if m.published else "searched"
        rows.append([m.name, kind, m.trials, m.epochs, m.candidates, m.hypervolume, reached])
    said = (
        f"The hypervolume that each method reaches if it may spend {found.methods.budget} epochs, as many as the "
        "searched method with the fewest: mean over random orders of its trials, in brackets what 95 % of the orders "
        "give. It is an interval of the order of trials, not of seeds. A published setting is one trial and spent only "
        "its own epochs. Candidates: trials that reached the full budget within the constraints."
    )
    caption = "Hypervolume for as many epochs each. Dots: searched methods; diamonds: published settings, one trial."
    header = ["method", "kind", "trials", "epochs", "candidates", "hypervolume of all", "at equal epochs"]
    return [
        Heading("Methods at equal cost"),
        Paragraph((said,)),
        picture(plots["methods"], "Hypervolume of each method for as many epochs", caption),
        Table(header, rows, name="methods"),
    ]


def parameters(found: Findings, plots: Plots) -> list[Block]:
    """Which parameters decide, and where their good values lie."""
    blocks: list[Block] = []
    if found.importance is not None and "importance" in plots:
        first = list(found.importance.shares.items())[:2]
        leading = enumerated([f"{path} ({share(value)})" for path, value in first])
        said = (
            f"What decides most whether a trial comes near the front: {leading}. A share says how much the "
            f"{found.importance.best} best of {found.importance.trials} trials differ in a parameter from the others "
            "(PED-ANOVA). A large one: its value must be right. A small one: any value in its range did here; not that "
            "it never matters."
        )
        blocks += [Paragraph((said,)), picture(plots["importance"], "Importance of each parameter", _NO_DIRECTION)]
    if "slices" in plots:
        searched = len(axes_of(found))
        left_out = f" The {MOST} most important parameters." if searched == MOST and found.importance else ""
        caption = f"Each searched parameter against each objective.{left_out}"
        blocks.append(picture(plots["slices"], "Each parameter against each objective", caption))
        caption = (
            "A line is a full-budget trial: its settings, then its objectives (orange axes); not there: it has no such "
            "parameter. Where the lines of the front keep together, a value is needed; where they spread, it is free."
        )
        blocks.append(picture(plots["parallel"], "Settings and objectives of full-budget trials", caption))
    return [Heading("What matters"), *blocks] if blocks else []


_NO_DIRECTION = "Shares add up to 1. They have no direction: the slices below show where good values lie."


# -- epochs and cost ---------------------------------------------------------------------------------------------------


def volume(found: Findings, plots: Plots) -> list[Block]:
    """How the front grew."""
    caption = (
        f"Hypervolume of the full-budget trials, {number(found.summary.hypervolume)} in the end, over the epochs that "
        f"all trials together had spent. Reference point {reference(found.summary)}."
    )
    alone = found.published_volume
    if alone is not None:
        passed = next((s for s, v in zip(*found.volume, strict=True) if v > alone), None)
        caption += f" The published settings alone: {number(alone)}"
        caption += f", passed after {count(passed, 'epoch', 'epochs')}." if passed is not None else "."
    return [Heading("Hypervolume"), picture(plots["hypervolume"], "Hypervolume by epochs spent", caption)]


def epochs(found: Findings, plots: Plots) -> list[Block]:
    """Whether more epochs are worth it."""
    if "epochs" not in plots:
        return []
    points = found.any_epoch_front
    early = [point for point in points if not point.last]
    last, before = found.epoch_fronts[-1], found.epoch_fronts[-2]
    change = (last.hypervolume - before.hypervolume) / before.hypervolume if before.hypervolume else 0.0
    said = (
        f"From epoch {before.epoch} to {last.epoch} the hypervolume of the front changed by {change:+.1%}. "
        f"Of the {len(points)} points that nothing dominates at any epoch, {len(early)} "
        f"{'lies' if len(early) == 1 else 'lie'} before the last epoch of a trial; an earlier epoch is on an "
        "unfinished schedule of the learning rate, so a trial that ends there need not reach the same."
    )
    rows: list[list[Cell]] = [[f.epoch, f.trials, len(f.front), f.hypervolume] for f in found.epoch_fronts]
    caption = "The front of the full-budget trials after each epoch, and its hypervolume."
    return [
        Heading("The front by epoch"),
        Paragraph((said,)),
        picture(plots["epochs"], "Fronts by epoch", caption),
        Table(["epoch", "trials", "on its front", "hypervolume"], rows, name="epochs"),
    ]


def cost(found: Findings) -> list[Block]:
    """What was spent on what."""
    summary = found.summary
    rows: list[list[Cell]] = []
    for origin, each in summary.cost.items():
        states = [each.counts["COMPLETE"], each.counts["PRUNED"], each.counts["FAIL"]]
        hours = [number(round(each.seconds / 3600 * summary.gpu, 3))] if summary.gpu else []
        rows.append([ORIGINS[origin], each.trials, *states, each.epochs, each.saved, duration(each.seconds), *hours])
    header = ["what for", "trials", "full budget", "stopped early", "failed", "epochs", "epochs saved", "trial time"]
    header += ["GPU-hours"] if summary.gpu else []
    words = "What earlier sweeps cost stands in this table and is counted nowhere else."
    earlier = [Paragraph((words,))] if "earlier" in summary.cost else []
    facts = [
        ("on the front", f"{len(summary.front)} of {len(summary.candidates)}"),
        ("hypervolume", number(summary.hypervolume)),
        ("full budget", str(summary.counts["COMPLETE"])),
        ("stopped early", str(summary.counts["PRUNED"])),
        ("failed", str(summary.counts["FAIL"])),
        ("trial time", duration(summary.seconds)),
    ]
    more: list[Block] = [Table(header, rows, name="cost")] if rows else []
    return [Heading("Cost"), Facts(facts), *more, *earlier]
