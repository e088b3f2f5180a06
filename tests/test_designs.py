"""Grids and ablations: which points, in which order, in which words."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.search.config import Ablation, Grid
from orchestrator.search.designs import ablation_points, grid_points, levels, points
from search_spaces.space import Float, Int, SearchSpace, get_path, with_paths
from trials.config import TrialConfig

TRIAL = TrialConfig.model_validate({"loss": {"criterion": {"type": "satimp", "beta1": 5.0, "beta2": 1.0}}}).model_dump(
    mode="json"
)
SPACE = {
    "loss.criterion": {
        "one_of": {
            "satimp": {"beta1": {"float": [1, 9]}, "beta2": {"float": [0, 2]}},
            "npo": {"beta": {"float": [0.01, 1], "log": True}},
        }
    },
    "loss.granularity": {"choice": ["token", "instance"], "when": {"loss.criterion": "satimp"}},
    "optim.lr": {"float": [1e-4, 1e-2], "log": True},
}


def space_of(raw: dict[str, Any] = SPACE) -> SearchSpace:
    return SearchSpace.parse(raw, TRIAL)


def ablation(**settings: Any) -> Ablation:
    return Ablation.model_validate({"type": "ablation"} | settings)


def design(base: dict[str, Any] = TRIAL, **settings: Any) -> list[tuple[str, dict[str, Any]]]:
    return ablation_points(ablation(**settings), space_of(), base, TRIAL)


def test_levels_are_the_ends_and_evenly_between_them() -> None:
    assert levels(Float(0.0, 1.0), 3) == [0.0, 0.5, 1.0]
    assert levels(Float(1e-4, 1e-2, log=True), 3) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert levels(Int(1, 16, log=True), 3) == [1, 4, 16]
    assert levels(Int(2, 3), 5) == [2, 3]


def test_the_ends_of_a_range_are_exact() -> None:
    assert [levels(Float(0.1, 0.7, log=True), 7)[i] for i in (0, -1)] == [0.1, 0.7]


def test_a_grid_walks_the_conditions_the_first_parameter_slowest() -> None:
    space = {
        "loss.criterion": {"one_of": {"npo": {"beta": {"float": [0.1, 1]}}, "satimp": {}}},
        "optim.batch_size": {"int": [4, 8]},
    }
    found = grid_points(space_of(space), Grid(levels=2))
    assert [list(point.values()) for point in found] == [
        ["npo", 0.1, 4],
        ["npo", 0.1, 8],
        ["npo", 1.0, 4],
        ["npo", 1.0, 8],
        ["satimp", 4],
        ["satimp", 8],
    ]


def test_a_shuffled_grid_has_the_same_points_in_an_order_of_its_seed() -> None:
    plain = grid_points(space_of(), Grid())
    one, again = (grid_points(space_of(), Grid(shuffle=True, seed=1)) for _ in range(2))
    other = grid_points(space_of(), Grid(shuffle=True, seed=2))
    assert one == again
    assert plain != one != other
    assert sorted(map(str, plain)) == sorted(map(str, one)) == sorted(map(str, other))


def test_a_space_without_parameters_has_one_point() -> None:
    assert list(points(space_of({}), {})) == [{}]


def test_one_factor_has_the_base_first_and_then_each_other_value_alone() -> None:
    values = {"loss.granularity": ["token", "instance"], "optim.lr": [1e-3, 3e-4]}
    assert design(design="one_factor", values=values) == [
        ("base", {}),
        ("loss.granularity = instance", {"loss.granularity": "instance"}),
        ("optim.lr = 0.001", {"optim.lr": 1e-3}),
    ]


def test_without_values_the_searched_paths_that_exist_at_the_base_are_taken() -> None:
    paths = {path for _, point in design(levels=2) for path in point}
    assert paths == {
        "loss.criterion.type",
        "loss.criterion.beta1",
        "loss.criterion.beta2",
        "loss.granularity",
        "optim.lr",
    }
    npo = with_paths(TRIAL, {"loss.criterion.type": "npo", "loss.criterion.beta": 0.5})
    paths = {path for _, point in design(npo, levels=2) for path in point}
    assert paths == {"loss.criterion.type", "loss.criterion.beta", "optim.lr"}


def test_an_empty_list_of_values_means_those_of_the_searched_path() -> None:
    found = design(values={"optim.lr": [], "loss.granularity": []}, levels=2)
    assert [words for words, _ in found] == [
        "base",
        "optim.lr = 0.0001",
        "optim.lr = 0.01",
        "loss.granularity = instance",
    ]


def test_a_path_that_is_not_searched_needs_values() -> None:
    with pytest.raises(ValueError, match=r"'optim.weight_decay' is not searched at the base.*list them"):
        design(values={"optim.weight_decay": []})
    assert design(values={"optim.weight_decay": [0.1]})[1][0] == "optim.weight_decay = 0.1"


def test_leave_one_out_sets_each_part_back_to_the_sweeps_own_value() -> None:
    base = with_paths(TRIAL, {"loss.criterion.beta1": 2.0, "optim.lr": 1e-3, "loss.granularity": "instance"})
    assert design(base, design="leave_one_out") == [
        ("base", {}),
        ("without loss.criterion.beta1", {"loss.criterion.beta1": 5.0}),
        ("without loss.granularity", {"loss.granularity": get_path(TRIAL, "loss.granularity")}),
        ("without optim.lr", {"optim.lr": get_path(TRIAL, "optim.lr")}),
    ]


def test_a_variant_goes_back_with_its_own_parameters() -> None:
    npo = with_paths(TRIAL, {"loss.criterion.type": "npo", "loss.criterion.beta": 0.5})
    found = dict(design(npo, design="leave_one_out"))
    assert with_paths(npo, found["without loss.criterion.type"]) == TRIAL
    assert list(found) == ["base", "without loss.criterion.type"], "the trial has no beta of npo to go back to"


def test_leaving_out_what_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'optim.rate' is not there at the base"):
        design(design="leave_one_out", values={"optim.rate": []})


def test_a_factorial_has_all_combinations() -> None:
    values = {"loss.granularity": ["token", "instance"], "optim.lr": [1e-3, 3e-4]}
    assert [words for words, _ in design(design="factorial", values=values)] == [
        "loss.granularity = token, optim.lr = 0.001",
        "loss.granularity = token, optim.lr = 0.0003",
        "loss.granularity = instance, optim.lr = 0.001",
        "loss.granularity = instance, optim.lr = 0.0003",
    ]


def test_paired_takes_the_first_values_together_and_then_the_second() -> None:
    values: dict[str, list[Any]] = {"loss.granularity": ["token", "instance"], "optim.clip": [None, 1.0]}
    assert design(design="paired", values=values) == [
        ("loss.granularity = token, optim.clip = null", {"loss.granularity": "token", "optim.clip": None}),
        ("loss.granularity = instance, optim.clip = 1", {"loss.granularity": "instance", "optim.clip": 1.0}),
    ]


def test_lists_of_unequal_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"equal length: optim.lr has 1, optim.batch_size has 2"):
        design(design="paired", values={"optim.lr": [1e-3], "optim.batch_size": [4, 8]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim.lr": [-1.0]}, r"optim.lr = -1: optim.lr: Input should be greater than 0"),
        ({"optim.rate": [1.0]}, r"optim.rate = 1: optim.rate: Extra inputs"),
        ({"loss.criterion.type": ["rmu"], "loss.criterion.beta2": [3]}, r"loss.criterion.type = rmu.*beta2"),
    ],
)
def test_a_setting_that_is_no_trial_is_told_in_its_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design(design="factorial", values=values)


def test_unchecked_points_are_given_as_they_are() -> None:
    found = ablation_points(ablation(values={"optim.lr": [-1.0]}), space_of(), TRIAL, TRIAL, checked=False)
    assert found[1] == ("optim.lr = -1", {"optim.lr": -1.0})
