"""The model card of an exported trial, from records and what was measured of the export: the words, and no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import yaml

from orchestrator.events import Record
from orchestrator.report.document import Block, Heading, Listing, Paragraph, Table, markdown
from orchestrator.report.markdown import summary as first_paragraph
from orchestrator.report.scores import RESAMPLES, Interval, direction, words
from orchestrator.results.choices import recommended
from orchestrator.results.front import Summary, dominators_of, has_all, settings_of
from search_spaces.space import flat
from trials.config import TrialConfig
from trials.objectives import LossConfig
from trials.presets import PRESETS
from trials.registry import METRICS

Kind = Literal["model", "adapter", "merged model"]

USE = (
    "It is made for research on machine unlearning: to study what was removed, what stayed, and how both are measured. "
    "A model that scores as this one does may still hold what it was to forget, and give it away to other prompts, "
    "after a little fine-tuning or after quantisation: no promise of deletion, privacy or safety can rest on it."
)


@dataclass(frozen=True)
class Export:
    """What a card is about.

    Attributes:
        summary: The sweep.
        record: The trial, as it is recorded.
        trial: Its settings.
        kind: What was written.
        folder: The run folder, as a command line names it.
        source: Text of the sweep's file, settings of its command line as comments below it.
        values: Metrics of the export, measured after it was loaded again.
        intervals: Of those that are means over rows.
        tolerance: How near they came to what is recorded, relative.
        prompt: How a question is put to it, with an answer.
    """

    summary: Summary
    record: Record
    trial: TrialConfig
    kind: Kind
    folder: str
    source: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    tolerance: float
    prompt: str


def card(export: Export) -> str:
    """The text of README.md: YAML front matter, then Markdown."""
    found = [
        *_head(export),
        *_data(export),
        *_setting(export),
        *_metrics(export),
        *_place(export),
        *_reproduction(export),
        *_provenance(export),
        Heading("Intended use and limits"),
        Paragraph((USE,)),
    ]
    return f"---\n{yaml.safe_dump(_front_matter(export), sort_keys=False)}---\n\n{markdown(found)}"


def preset_of(loss: LossConfig, label: str | None = None) -> str | None:
    """The label of the published setting that a loss is: `label` if it is that one, else the first; None for none."""
    settings = loss.model_dump()  # without the preset that it was laid over
    candidates = sorted(PRESETS, key=lambda name: name != label)
    return next((n for n in candidates if LossConfig.model_validate(PRESETS[n][0]).model_dump() == settings), None)


def command_lines(export: Export) -> list[str]:
    """What gives the trial again, from the file beside the card and from the sweep's, and the sweep itself."""
    file = shlex.quote(f"{export.folder}/sweep.yaml")
    given = [line.removeprefix("# --set ") for line in export.source.splitlines() if line.startswith("# --set ")]
    suggested = export.summary.suggested[export.record.trial_id]
    settings = settings_of(export.record, suggested, export.summary.info.config.get("trial", {}))
    chosen = [f"trial.{path}={_yaml(value)}" for path, value in settings.items()]

    def line(verb: str, overrides: list[str]) -> str:
        return " \\\n  ".join([f"unlearn-sweep {verb} {file}", *(f"--set {shlex.quote(each)}" for each in overrides)])

    return ["unlearn-sweep trial trial.json", line("trial", [*given, *chosen]), line("run", given)]


# -- sections ----------------------------------------------------------------------------------------------------------


def _front_matter(export: Export) -> dict[str, Any]:
    base = export.trial.model.path
    return {
        "library_name": "peft" if export.kind == "adapter" else "transformers",
        # The hub takes nothing but ids here.
        **({"base_model": base} if base and re.fullmatch(r"\w[\w.-]*/[\w.-]+", base) else {}),
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "machine-unlearning", "unlearn-sweep"],
    }


def _head(export: Export) -> list[Block]:
    info, path = export.summary.info, export.trial.model.path
    target = "the tiny model that unlearn-sweep trains on the benchmark" if path is None else path
    what = {
        "model": "A language model",
        "merged model": "A language model, an adapter merged into its weights,",
        "adapter": "A LoRA adapter of a language model",
    }[export.kind]
    label = f" ({export.record.label})" if export.record.label else ""
    said = (
        f"{what} that was made to forget part of what {target} knows, the forget set of {info.benchmark}. It is what "
        f"trial {export.record.trial_id}{label} of the sweep {info.name} ended with."
    )
    adapter = export.kind == "adapter"
    loader = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
    code = (
        ("from peft import AutoPeftModelForCausalLM\n" if adapter else "")
        + f"from transformers import {'' if adapter else 'AutoModelForCausalLM, '}AutoTokenizer\n\n"
        f'model = {loader}.from_pretrained("path/to/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'
    )
    asked = "It was trained and measured in this form; a prompt ends before the answer and the blank in front of it:"
    name = Heading(f"{info.name}, trial {export.record.trial_id}", 1)
    return [name, Paragraph((said,)), Listing(code), Paragraph((asked,)), Listing(export.prompt)]


def _data(export: Export) -> list[Block]:
    info, trial = export.summary.info, export.trial
    rows = [
        ("benchmark", info.benchmark),
        *((f"benchmark.{path}", _yaml(value)) for path, value in flat(trial.benchmark.model_dump(mode="json")).items()),
        ("digest of its rows", info.data),
        ("target model", trial.model.path or "the tiny one"),
        ("digest of the models", info.model),
    ]
    return [Heading("Data and target model"), Table(["what", "value"], rows)]


def _setting(export: Export) -> list[Block]:
    loss = export.trial.loss
    label = preset_of(loss, export.record.label)
    published = f"It is the published setting {label}: {PRESETS[label][1]}." if label else "It is no published setting."
    about = first_paragraph(type(loss.criterion).__doc__).rstrip(".")
    defaults = flat(TrialConfig().model_dump(mode="json"))
    mine = flat(export.trial.model_dump(mode="json", exclude={"benchmark"}))
    rows = [
        (path, _yaml(value), _yaml(defaults[path]) if path in defaults else None)
        for path, value in mine.items()
        if path not in defaults or value != defaults[path]
    ]
    said = f"The forget term of the loss is {loss.criterion.type}: {about}. {published}"
    found: list[Block] = [Heading("Setting"), Paragraph((said,))]
    if rows:
        found += [Paragraph(("What differs from the defaults:",)), Table(["path", "value", "default"], rows)]
    return found


def _metrics(export: Export) -> list[Block]:
    anchors = export.summary.anchors
    known = {name: value for name, value in export.record.metrics.items() if name in METRICS} | dict(export.values)
    rows = [
        [
            name,
            known[name],
            words(export.intervals[name]) if name in export.intervals else None,
            *(metrics.get(name) for metrics in anchors.values()),
            direction(name),
        ]
        for name in METRICS
        if name in known
    ]
    said = (
        f"What was written was loaded again and measured: it scores as recorded, within {export.tolerance:g} relative. "
        f"Intervals are of 95 %, from {RESAMPLES} bootstrap resamples of the rows: they tell how much hangs on which "
        f"rows are asked, and nothing of other seeds. One seed was run ({export.record.seed})."
    )
    header = ["metric", "this model", "95 % interval", *(f"{which} model" for which in anchors), "better"]
    return [Heading("Metrics"), Paragraph((said,)), Table(header, rows)]


def _place(export: Export) -> list[Block]:
    summary, record = export.summary, export.record
    objectives = ", ".join(f"{name} ({way})" for name, way in summary.info.objectives.items())
    trials = f"{len(summary.candidates)} full-budget trial{'s' * (len(summary.candidates) != 1)}"
    among = f"among the {trials} of the sweep, by {objectives}"
    over = dominators_of(record, summary.front, summary.info.objectives)
    knee = recommended(summary)
    if not has_all(record.metrics, summary.info.objectives):
        said = "It lacks an objective, so it cannot be on the front."
    elif knee and knee.trial_id == record.trial_id:
        said = f"It is the knee of the front {among}: the best compromise where all objectives count alike."
    elif over:
        said = f"It is not on the front {among}: better are {', '.join(other.trial_id for other in over)}."
    else:
        said = f"It is on the front {among}, with {len(summary.front) - 1} others; the knee is one of them."
    return [Heading("Where it lies on the front"), Paragraph((said,))]


def _reproduction(export: Export) -> list[Block]:
    again, same, sweep = command_lines(export)
    found: list[Block] = [Heading("How to reproduce it"), Paragraph(("This trial, from the file beside this card:",))]
    found += [Listing(again), Paragraph(("The same, from the file of its sweep:",)), Listing(same)]
    return [*found, Paragraph(("The sweep in which it was found:",)), Listing(sweep)]


def _provenance(export: Export) -> list[Block]:
    info, record = export.summary.info, export.record
    rows = [
        ("fingerprint of the trial", record.fingerprint),
        ("seed of the trial", str(record.seed)),
        ("epochs", str(record.epoch)),
        ("fingerprint of the sweep", info.fingerprint),
        ("started", datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("git commit", info.git_commit or "not known"),
        *((f"version of {name}", version) for name, version in sorted(info.versions.items())),
    ]
    return [Heading("Provenance"), Table(["what", "value"], rows)]


def _yaml(value: Any) -> str:
    """A value as `--set` reads it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=2**31, allow_unicode=True)
    return text.removesuffix("...\n").strip()
