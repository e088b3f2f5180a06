"""Published settings and the page of the design space: sources, official names, numbers of the vectors, and words."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from orchestrator.problems import models_in
from orchestrator.reference.design_space import in_words, page, shape_of, show_presets
from orchestrator.reference.official import DEFECTS, OFFICIAL, RELATED, Official
from tests.golden import INPUTS, VECTORS, padded
from trials.forget import ForgetPass, forget_loss
from trials.losses import count_of, retain_nll
from trials.objectives import Forget, LossConfig
from trials.presets import PRESETS

DOCUMENT = Path(__file__).parents[1] / "docs" / "design-space.md"
NAMED = [*OFFICIAL.items(), *RELATED.items()]
TO_REPRODUCE = {("log_ratio", "micro_batch"), ("count", "published"), ("reduction", "padded_mean")}


def loss_of(label: str) -> LossConfig:
    return LossConfig.model_validate({"preset": label})


def leaves(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """Name and value of every setting, however deep."""
    pairs = [leaves(value) if isinstance(value, dict) else [(name, value)] for name, value in settings.items()]
    return [pair for found in pairs for pair in found]


# -- presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", PRESETS)
def test_each_preset_is_a_loss_that_its_label_alone_gives(label: str) -> None:
    given, source = PRESETS[label]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", label), "it is typed in files and on the command line"
    assert loss_of(label).model_dump() == LossConfig.model_validate(given).model_dump()
    assert re.search(r"arXiv \d{4}\.\d{5}|pull request \d+|OpenUnlearning's configuration", source)
    assert source.count("`") % 2 == 0


def test_what_stands_beside_a_preset_is_laid_over_it_and_leaves_the_preset_alone() -> None:
    before = repr(PRESETS["instance_simsat5"])
    loss = LossConfig.model_validate(
        {"preset": "instance_simsat5", "granularity": {"likelihood": "mean"}, "criterion": {"beta1": 2}}
    )
    assert in_words(loss) == "saturation (beta1 2), by instance, instance_mean_of_sums"
    assert repr(PRESETS["instance_simsat5"]) == before


def test_a_setting_has_one_label() -> None:
    losses: dict[str, list[str]] = {}
    for label in PRESETS:
        losses.setdefault(loss_of(label).model_dump_json(), []).append(label)
    assert [labels for labels in losses.values() if len(labels) > 1] == []


def test_only_labels_that_say_published_take_a_defect_over() -> None:
    found = {label for label in PRESETS if TO_REPRODUCE & set(leaves(loss_of(label).model_dump()))}
    assert found == {label for label in PRESETS if label.endswith("_published")}


@pytest.mark.parametrize("label", [label for label in PRESETS if label.endswith("_published")])
def test_a_published_preset_differs_from_its_corrected_twin_in_the_defect_only(label: str) -> None:
    published = leaves(loss_of(label).model_dump())
    corrected = leaves(loss_of(label.removesuffix("_published")).model_dump())
    assert [name for name, _ in published] == [name for name, _ in corrected]
    differing = {mine for mine, other in zip(published, corrected, strict=True) if mine != other}
    assert differing
    assert differing <= TO_REPRODUCE


def test_every_objective_but_the_mixture_has_a_published_setting() -> None:
    kinds = {kind.model_fields["type"].default for kind in get_args(get_args(Forget)[0])}
    assert kinds - {loss["criterion"]["type"] for loss, _ in PRESETS.values()} == {"mixture"}


WITH_NUMBERS = {
    "gradient_ascent": "ga_token_mean",
    "gradient_difference": "grad_diff_token_mean",
    "satimp_readme": "satimp_token_b1_5.0_b2_0.1",
    "satimp_gd_readme": "satimp_gd_coeff_on_retain_0.1",
    "simsat1_ga": "simsat_token_beta1_ga (=WGA beta 1)",
    "simsat5_gd_yaml": "simsat_gd_default_gate",
    "simimp5_ga": "simimp_token_beta5.0_ga",
    "instance_simsat5": "instance_simsat_sum_beta5.0",
    "instance_simimp5": "instance_simimp_sum_beta5.0",
    "tnpo4": "tnpo_token_beta4.0",
    "wtnpo4": "wtnpo_token_beta4_alpha1.5",
    "npo": "npo_sum_beta0.1",
    "simnpo": "simnpo_beta2.5_gamma0.0",
    "annotated80": "ga_imp_p0.8_official_sum",
    "annotated80_gd_published": "gd_imp_p0.8_official_padded_mean",
}


@pytest.mark.parametrize(("label", "name"), WITH_NUMBERS.items())
def test_presets_give_the_numbers_that_the_published_code_gave(label: str, name: str) -> None:
    (vector,) = [vector for vector in VECTORS["vectors"] if vector["name"] == name]
    loss = loss_of(label)
    ce_BA, mask_BA = padded(INPUTS["forget_ce"])
    important_BA, _ = padded(vector["spec"].get("important", INPUTS["forget_ce"]))
    view = ForgetPass(
        ce_BA,
        mask_BA,
        tokens=int(mask_BA.sum()),
        rows=len(mask_BA),
        reference_ce_BA=padded(INPUTS["reference_ce"])[0],
        important_BA=important_BA > 0,
    )
    total = loss.forget_coefficient * forget_loss(view, loss)
    if loss.retain.term == "nll":
        rows = INPUTS["retain_ce"]
        ce_N = torch.tensor([ce for row in rows for ce in row], dtype=torch.float64)
        count = count_of(loss.retain.reduction, tokens=len(ce_N), rows=len(rows))
        total = total + loss.retain.coefficient * retain_nll(ce_N, count=count)
    assert float(total) == pytest.approx(vector["official_loss"], rel=1e-9)


# -- official names ----------------------------------------------------------------------------------------------------


def test_the_official_names_are_56_in_60_branches_of_five_files() -> None:
    assert len(OFFICIAL) == 56
    branches = Counter(file for row in OFFICIAL.values() for file in row.files)
    assert branches == {"base": 18, "sat": 9, "granu": 12, "hard": 14, "imp": 7}
    assert sum(branches.values()) == 60
    assert not OFFICIAL.keys() & RELATED.keys()


@pytest.mark.parametrize(("name", "row"), NAMED, ids=[name for name, _ in NAMED])
def test_each_official_name_has_presets_and_refers_to_defects_that_are_listed(name: str, row: Official) -> None:
    assert row.files
    assert row.presets
    assert set(row.presets) <= set(PRESETS)
    assert set(re.findall(r"\bB\d+\b", row.remark)) <= set(DEFECTS)


MEANING = [
    (r"(^|_)ga(_|$)|^grad_ascent$|^w?tnpo(_<a>)?$|^wga$", lambda loss: loss.retain.term == "none"),
    (r"(^|_)gd(_|$)|_diff$|^fine_tuned$", lambda loss: loss.retain.term == "nll"),
    (r"(^|_)kl(_imp)?$|_KL$|^KL$", lambda loss: loss.retain.term == "kl"),
    (r"forgetKL", lambda loss: loss.retain.term == "forget_kl"),
    (r"^(npo|simnpo|dpo|kto|idk|rmu|satimp)", lambda loss: loss.criterion.type),
    (r"simsat|^wga", lambda loss: loss.criterion.type == "saturation"),
    (r"simimp", lambda loss: loss.criterion.type == "importance"),
    (r"^(instance|batch|group)_", lambda loss: loss.granularity.type),
    (r"_topk$", lambda loss: loss.selection.type == "top"),
    (r"_bottomk$", lambda loss: loss.selection.type == "bottom"),
    (r"_rand$", lambda loss: loss.selection.type == "random"),
    (r"^(ga|gd)_(topk|bottomk|rand)$|^ga_imp$", lambda loss: loss.reduction == "token_sum"),
    (r"_imp$|^att_", lambda loss: "annotations" in loss.needs),
    (r"^(tnpo|ins_npo)", lambda loss: loss.criterion.type == "tnpo"),
    (r"^(wtnpo|w_ins_npo)", lambda loss: loss.criterion.type == "wtnpo"),
]
"""Part of an official name -> whether a loss is what it says, or the word that must be the part in brackets."""


@pytest.mark.parametrize(("part", "of_loss"), MEANING, ids=[part for part, _ in MEANING])
def test_the_presets_of_a_name_are_what_the_name_says(part: str, of_loss: Any) -> None:
    names = [(name, row, found) for name, row in NAMED if (found := re.search(part, name))]
    assert names
    for name, row, found in names:
        for label in row.presets:
            said = of_loss(loss_of(label))
            assert said == found[1] if isinstance(said, str) else said, f"{name}: {label}"


# -- the page ----------------------------------------------------------------------------------------------------------


def section(title: str) -> str:
    """A section of the page, up to the next."""
    return page().split(f"\n## {title}\n")[1].partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    return [line.split(" | ")[0].strip("| `") for line in text.splitlines() if line.startswith("| ")]


def test_the_page_is_that_of_this_code() -> None:
    assert DOCUMENT.read_text("utf-8") == page(), "run `make docs`"


def test_the_page_has_each_official_name_each_preset_and_each_defect_once() -> None:
    names = first_cells(section("Official names"))
    assert Counter(names) == Counter([*OFFICIAL, *RELATED, "name", "name", "---", "---"])
    assert first_cells(section("Presets"))[2:] == list(PRESETS)
    assert first_cells(section("Defects"))[2:] == [f"B{number}" for number in range(1, 27)]


def setting_paths(model: type[BaseModel], prefix: str) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        found |= {path for each in inner for path in setting_paths(each, f"{prefix}{name}.")}
        found |= set() if inner else {f"{prefix}{name}"}
    return found


def test_the_page_has_every_setting_of_a_loss_and_no_other() -> None:
    assert set(first_cells(section("Settings"))[2:]) == setting_paths(LossConfig, "loss.")


@pytest.mark.parametrize(
    "row",
    [
        "| `loss.criterion.beta1` | number >= 0 and <= 1000 | `criterion` is `saturation` or `satimp` or `mixture` |",
        "| `loss.granularity.type` | token | always |",
        "| `loss.granularity.type` | instance | `criterion` is a reweighting but `uniform` or `annotated` |",
        "| `loss.granularity.size` | integer >= 1 and <= 100000 | `granularity` is `group` |",
        "| `loss.selection.type` | top, bottom, random, annotated | "
        "`criterion` is a reweighting or `npo` or `simnpo` |",
        "| `loss.scale` | peak | `criterion` is a reweighting but `mixture` or `loss_magnitude` |",
        "| `loss.retain.term` | nll, kl, forget_kl | `criterion` is not `uld` |",
        "| `loss.retain.term` | activation | `criterion` is `rmu` |",
        "| `loss.retain.reduction` | token_sum, padded_mean | `retain.term` is `nll` |",
    ],
)
def test_the_page_says_where_a_setting_may_stand(row: str) -> None:
    assert row in section("Settings").splitlines()


@pytest.mark.parametrize("row", VECTORS["weight_shape_table"], ids=lambda row: f"{row['beta1']}-{row['beta2']}")
def test_the_shape_of_weights_is_that_of_the_vectors_and_of_a_sum(row: dict[str, float]) -> None:
    shape = shape_of(row["beta1"], row["beta2"])
    assert shape[:3] == pytest.approx((row["p_star"], row["w_max"], row["mean_w_uniform_p"]), rel=1e-5)
    p = (np.arange(200_000) + 0.5) / 200_000
    weights = p ** row["beta1"] * (1 - p) ** row["beta2"]
    assert (shape.largest, shape.mean) == pytest.approx((weights.max(), weights.mean()), rel=1e-4)
    assert shape[3:] == pytest.approx(np.interp([0.9, 0.99, 0.999], p, weights), rel=1e-4)


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("gradient_ascent", "uniform"),
        ("satimp_ou_merged", "0.1 satimp (beta1 5, beta2 1) + nll"),
        ("instance_simsat5", "saturation (beta1 5), by instance (likelihood sum), instance_mean_of_sums"),
        ("top15_gd", "uniform, on top (soft 1, fraction 0.15), token_sum + nll, token_sum"),
        ("npo", "npo (beta 0.1)"),
        ("rmu_satimp", "rmu (layer 7, steering 6.5, normalise false)"),
        ("retain_only", "0 uniform + nll"),
    ],
)
def test_a_loss_in_words_leaves_out_what_is_at_its_default(label: str, said: str) -> None:
    assert in_words(loss_of(label)) == said


def test_scaled_weights_are_said_too() -> None:
    assert in_words(LossConfig.model_validate({"scale": "peak"})) == "satimp (beta1 5, beta2 0.1), over its peak + nll"


def shown(width: int, *, terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    show_presets(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_of_presets_fits_the_terminal(width: int) -> None:
    lines = shown(width, terminal=True)
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert [line.split()[1] for line in lines if re.match(r"│ [a-z]", line)] == list(PRESETS)


def test_what_is_not_a_terminal_gets_a_line_a_preset_whatever_the_width() -> None:
    rows = [line.split("\t") for line in shown(20, terminal=False)]
    assert [label for label, _, _ in rows] == list(PRESETS)
    assert ["wga", "saturation (beta1 1) + nll", "WGA with retain NLL (arXiv 2502.19301)"] in rows


def test_no_word_of_the_table_is_markup() -> None:
    for label, (_, source) in PRESETS.items():
        assert escape(source) == source
        assert escape(in_words(loss_of(label))) == in_words(loss_of(label))


def test_the_page_is_made_without_torch() -> None:
    code = "import orchestrator.reference.design_space as d, sys; d.page(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "False\n"
