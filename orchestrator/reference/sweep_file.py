"""The reference of sweep files, made from the types that check them: `make docs` writes docs/reference.md."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config import SweepConfig
from orchestrator.problems import models_in
from orchestrator.report.markdown import flow, summary, table, words
from trials.naming import GROUPS


def reference() -> str:
    """The page, in Markdown."""
    lines = [
        "# Every setting of a sweep file",
        "",
        "Made from the code by `make docs`; do not edit. Paths are those of `--set`; those under `trial.` are also the",
        "keys of `space`, without the `trial.`. A setting of a variant exists where `type` has the value in brackets.",
        "",
        *table(["path", "type", "default", ""], _rows(SweepConfig, "")),
        "",
        "## Presets",
        "",
        "For `loss.preset`, `baselines` and `unlearn-sweep trial --preset`: "
        "[published settings](design-space.md#presets), or `unlearn-sweep presets`.",
        "",
        "## Metrics",
        "",
        "For `objectives` and `scheduler.floors`: [names](metrics.md), as in `forget.extraction_strength`. For",
        "`trial.evaluation.metrics` and `front`: names, patterns as in `forget.*`, and [groups](metrics.md#groups): "
        f"{', '.join(f'`{group}`' for group in GROUPS)}.",
    ]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], prefix: str, variant: str = "") -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = models_in(field.annotation)
        if name == "type" and variant:
            continue
        if len(inner) > 1:
            variants = {m.model_fields["type"].default: summary(m.__doc__) for m in inner}
            about = "; ".join(f"**{tag}** {text.rstrip('.')}" for tag, text in variants.items())
            yield f"`{path}.type`{variant}", " or ".join(variants), _default(field), about
        for each in inner:
            tag = f" [{each.model_fields['type'].default}]" if len(inner) > 1 else variant
            yield from _rows(each, f"{path}.", tag)
        if not inner:
            type_words = words(model.model_json_schema()["properties"][name])
            yield f"`{path}`{variant}", type_words, _default(field), field.description or ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    return f"`{value.type}`" if hasattr(value, "type") else f"`{flow(value)}`"


if __name__ == "__main__":
    print(reference(), end="")
