"""The reference of sweep files, made from the types that check them: `make docs` writes docs/reference.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config import SweepConfig
from orchestrator.problems import models_in
from trials.config import PRESETS
from trials.metrics import METRICS, SETS


def reference() -> str:
    """The page, in Markdown."""
    lines = [
        "# Every setting of a sweep file",
        "",
        "Made from the code by `make docs`; do not edit. Paths are those of `--set`; those under `trial.` are also the",
        "keys of `space`, without the `trial.`. A setting of a variant exists where `type` has the value in brackets.",
        "",
        "| path | type | default | |",
        "|---|---|---|---|",
        *_rows(SweepConfig, ""),
        "",
        "## Presets",
        "",
        "For `baselines` and `unlearn-sweep trial --preset`.",
        "",
        "| label | loss | source |",
        "|---|---|---|",
        *(f"| `{label}` | {_cell(_flow(loss))} | {_cell(source)} |" for label, (loss, source) in PRESETS.items()),
        "",
        "## Metrics",
        "",
        f"For `objectives`: `<set>.<metric>`, the set one of {', '.join(SETS)}.",
        "",
        "| metric | range | |",
        "|---|---|---|",
        *(
            f"| `{name}` | {metric.low:g} to {metric.high:g} | {_cell(_summary(metric.function.__doc__))} |"
            for name, metric in METRICS.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], prefix: str, variant: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = models_in(field.annotation)
        if name == "type" and variant:
            continue
        if len(inner) > 1:
            variants = {m.model_fields["type"].default: _summary(m.__doc__) for m in inner}
            words = "; ".join(f"**{tag}** {text.rstrip('.')}" for tag, text in variants.items())
            yield f"| `{path}.type`{variant} | {' or '.join(variants)} | {_default(field)} | {_cell(words)} |"
        for each in inner:
            tag = f" [{each.model_fields['type'].default}]" if len(inner) > 1 else variant
            yield from _rows(each, f"{path}.", tag)
        if not inner:
            words = _words(model.model_json_schema()["properties"][name])
            about = _cell(field.description or "")
            yield f"| `{path}`{variant} | {_cell(words)} | {_default(field)} | {about} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    return f"`{value.type}`" if hasattr(value, "type") else f"`{_flow(value)}`"


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _words(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(_words(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    bounds = " and ".join(f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema)
    name = {"object": "mapping", "array": "list"}.get(schema.get("type", "any"), schema.get("type", "any"))
    return f"{name} {bounds}".strip()


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return "null" if value is None else str(value)


def _summary(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    print(reference(), end="")
