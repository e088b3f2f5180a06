"""Who may import whom and what, how long a file may be, and what a look at the command line may not cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    "trials": [
        "settings metrics result authors presets refusals checkpoints",  # plain values: they know of nothing else
        "logs prompts sources reading texts",
        "weighting aggregates wording annotations",  # the formulas of reweighting, and of metrics
        "pooling weight_profile registry",
        "objectives naming",  # what a trial minimises, what it measures
        "config",  # what a trial is
        "identity",  # and what it is called
        "benchmarks losses optimiser",
        "muse wmdp encoding heads",
        "material logits forget",  # a benchmark as token ids, and what a model makes of them
        "models asking adapters",
        "target attribution generate scoring gradients robustness similarity",
        "passes evaluate shared_scoring",
        "references",
        "measuring",
        "unlearn",  # one trial, run
        "lockstep",
        "packing",  # several, run together
    ],
    "search_spaces": ["nodes", "space"],
    "orchestrator": [
        (
            "access health loading pareto redaction resources safe_yaml importing.shell reference.elsewhere "
            "reference.official report.document report.markdown search.layers"
        ),
        # what stands alone
        "events",
        "salvage",
        (
            "ledger report.drawing report.table_files results.cost results.intervals results.volume "
            "search.standings tracking.usage"
        ),
        ("problems session importing.names importing.values report.scores results.front search.config tracking.uri"),
        (
            "remote trial_checks importing.formats rehearsal.anytime report.weight_profiles results.effort "
            "keeping results.evidence results.importance search.constraints tracking.client"
        ),
        "search.designs search.spending tracking.login",
        "mirror results.attainment search.checks search.earlier",
        "checks importing.joint report.phrasing results.choices results.compare results.effects",
        "results.published",
        # what a sweep is
        (
            "config prepare standalone importing.mapping importing.merging report.card report.compare_words "
            "results.findings"
        ),
        "extension housekeeping submission rehearsal.curves search.observations",
        (
            "cluster delivery folder jobs progress reference.design_space reference.metric_families "
            "reference.sweep_file rehearsal.curve_files report.figures search.faults search.rungs"
        ),
        (
            "report.anchor_sections report.answer report.effort_figures report.parameter_figures "
            "report.record_sections search.proposals pack_process"
        ),
        "importing.sweep_file search.agenda search.journal packs tracking.course tracking.runs tracking.views",
        "tracking.note worker",
        "report.front_sections report.search_sections",
        "doctor measure placement reference.metrics_page report.sections report.weight_figures tracking.store",
        "export single rehearsal.plan report.report search.schedulers tracking.tracker tracking.ui",
        "rehearsal.recordings search.study",
        "sweep rehearsal.simulator",  # a sweep, run
        "verbs rehearsal.rehearse",
        "cluster_verbs doctor_verbs sweep_verbs view_verbs",
        "cli",
    ],
}
"""Package -> its modules from the bottom up: a module imports from lower layers of its own package only."""

BELOW = {
    "trials": "",
    "search_spaces": "",
    "orchestrator": (
        "search_spaces.space trials.config trials.objectives trials.presets trials.settings trials.weighting "
        "trials.pooling trials.weight_profile trials.identity trials.benchmarks trials.result trials.sources "
        "trials.logs trials.naming trials.reading trials.registry trials.checkpoints"
    ),
}
"""Package -> what it may import of the other packages at the top of a file: nothing that imports torch."""

UPWARD = {
    ("trials.annotations", "trials.benchmarks"): "for types",
    ("trials.wording", "trials.benchmarks"): "for types",
    ("trials.annotations", "trials.encoding"): "in functions",  # where a token lies in an answer
    ("trials.benchmarks", "trials.muse"): "in functions",  # each kind of benchmark is a module of its own
    ("trials.benchmarks", "trials.wmdp"): "in functions",
    ("trials.models", "trials.target"): "in functions",  # a model that is ours and missing is trained when it is loaded
    ("orchestrator.checks", "orchestrator.config"): "for types",
    ("orchestrator.search.checks", "orchestrator.config"): "for types",
    ("orchestrator.search.earlier", "orchestrator.config"): "for types",
    ("orchestrator.progress", "orchestrator.sweep"): "for types",
    ("orchestrator.reference.metric_families", "trials.robustness"): "in functions",  # for their docstrings
    ("orchestrator.reference.metric_families", "trials.similarity"): "in functions",
    ("orchestrator.measure", "trials.measuring"): "in functions",
    ("orchestrator.placement", "trials.unlearn"): "in functions",
    ("orchestrator.single", "trials.unlearn"): "in functions",
    ("orchestrator.worker", "trials.unlearn"): "in functions",
    ("orchestrator.pack_process", "trials.packing"): "in functions",
    ("orchestrator.prepare", "trials.references"): "in functions",
    ("orchestrator.loading", "trials.models"): "in functions",
    ("orchestrator.standalone", "trials.models"): "in functions",
    ("orchestrator.standalone", "trials.evaluate"): "in functions",
    ("orchestrator.standalone", "trials.references"): "in functions",
    ("orchestrator.export", "trials.models"): "in functions",
    ("orchestrator.export", "trials.target"): "in functions",
    ("orchestrator.export", "trials.measuring"): "in functions",
}
"""Exceptions to the two rules above, and where such an import may stand."""

_TORCH = (
    "losses",
    "heads",
    "forget",
    "optimiser",
    "encoding",
    "models",
    "attribution",
    "target",
    "material",
    "logits",
    "asking",
    "adapters",
    "shared_scoring",
    "lockstep",
    "packing",
    "generate",
    "scoring",
    "gradients",
    "robustness",
    "similarity",
    "passes",
    "unlearn",
)
_RAY = (
    "packs",
    "delivery",
    "search.study",
    "search.schedulers",
    "worker",
    "sweep",
    "cluster",
    "measure",
    "placement",
    "doctor",
)
_OPTUNA = ("search.observations", "search.proposals", "search.journal")
_RICH = (
    "measure",
    "placement",
    "progress",
    "prepare",
    "rehearsal.plan",
    "single",
    "sweep",
    "reference.design_space",
    "report.scores",
    "standalone",
    "export",
    "report.compare_words",
    "rehearsal.rehearse",
    "doctor",
)
TORCH, RICH = (
    " ".join(f"trials.{name}" for name in (*_TORCH, "unlearn")),
    " ".join(f"orchestrator.{name}" for name in _RICH),
)
EXTERNAL: dict[str, dict[str, str]] = {
    "cut_cross_entropy": {"in functions": "trials.heads"},
    "ray": {"top": " ".join(f"orchestrator.{name}" for name in _RAY), "in functions": "orchestrator.jobs"},
    "optuna": {
        "top": " ".join(f"orchestrator.{name}" for name in _OPTUNA),
        "in functions": "orchestrator.results.importance",
    },
    "mlflow": {
        "in functions": "orchestrator.tracking.client orchestrator.tracking.store",
        "for types": "orchestrator.tracking.course",
    },
    "torch": {
        "top": TORCH,
        "in functions": (
            "orchestrator.worker orchestrator.prepare orchestrator.measure orchestrator.placement "
            "orchestrator.standalone orchestrator.export orchestrator.doctor orchestrator.pack_process"
        ),
        "for types": "trials.weighting trials.pooling trials.weight_profile",
    },
    "transformers": {
        "top": "trials.models trials.logits trials.target trials.generate trials.robustness trials.adapters",
        "for types": "trials.encoding trials.annotations trials.wording trials.material",
    },
    "tokenizers": {"top": "trials.target"},
    "safetensors": {"top": "trials.unlearn", "in functions": "orchestrator.loading"},
    "peft": {"in functions": "trials.models trials.unlearn trials.attribution trials.adapters orchestrator.loading"},
    "datasets": {"in functions": "trials.reading"},
    "jinja2": {"top": "trials.wording"},
    "rouge_score": {"in functions": "trials.texts"},
    "scipy": {"in functions": "trials.aggregates orchestrator.results.intervals"},
    "matplotlib": {
        "top": " ".join(
            f"orchestrator.report.{name}"
            for name in ("drawing", "figures", "effort_figures", "parameter_figures", "weight_figures")
        )
    },
    "typer": {
        "top": "orchestrator.cli orchestrator.verbs orchestrator.cluster_verbs orchestrator.doctor_verbs "
        "orchestrator.sweep_verbs orchestrator.view_verbs"
    },
    "rich": {
        "top": RICH,
        "in functions": (
            "orchestrator.cluster_verbs orchestrator.doctor_verbs orchestrator.sweep_verbs orchestrator.view_verbs"
        ),
    },
    "yaml": {
        "top": "orchestrator.safe_yaml orchestrator.report.phrasing orchestrator.report.card "
        "orchestrator.importing.formats orchestrator.importing.sweep_file"
    },
    "fsspec": {"in functions": "orchestrator.remote"},
    "platformdirs": {"top": "trials.identity"},
    "psutil": {"top": "orchestrator.doctor"},
    "pyarrow": {"in functions": "orchestrator.rehearsal.curve_files"},
    "pydantic": {"top": "*"},
    "pydantic_core": {"top": "orchestrator.problems"},
    "numpy": {"top": "*"},
}  # fmt: skip
"""Third-party package -> where which modules may import it; one that is not here may not be imported at all."""

PART_OF = {"yaml": "pyyaml", "pydantic_core": "pydantic", "tokenizers": "transformers", "rouge_score": "rouge-score"}
WHERE = ("top", "in functions", "for types")  # from the most to the least that an import costs


@dataclass(frozen=True)
class Import:
    """One import: of what, by whom, in which line, and where in the file (`WHERE`)."""

    module: str
    imported: str
    line: int
    where: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.imported} ({self.where})"


def modules() -> dict[str, Path]:
    """Dotted name -> file, of the three packages."""
    files = [file for package in LAYERS for file in sorted((ROOT / package).glob("**/*.py"))]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files if file.name != "__init__.py"
    }


def imports_of(module: str, source: str) -> Iterator[Import]:
    """Imports of anything but the standard library; `from package import module` is an import of the module."""
    ours = modules()

    def walk(node: ast.AST, where: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno} is a relative import"
                inner = [f"{child.module}.{alias.name}" for alias in child.names]
                names = [name for name in inner if name in ours] or [child.module or ""]
            for name in names:
                if name.split(".")[0] not in sys.stdlib_module_names:
                    yield Import(module, name, child.lineno, where)
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                yield from walk(child, "for types")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from walk(child, "in functions")
            else:
                yield from walk(child, where)

    return walk(ast.parse(source), "top")


def all_imports() -> list[Import]:
    return [found for module, file in modules().items() for found in imports_of(module, file.read_text("utf-8"))]


def layer(module: str) -> int:
    package, _, name = module.partition(".")
    return next(index for index, names in enumerate(LAYERS[package]) if name in names.split())


def allowed(found: Import) -> bool:
    """Whether the tables above allow an import of ours."""
    package = found.module.split(".")[0]
    if found.imported.split(".")[0] == package:
        fine = layer(found.imported) < layer(found.module)
    else:
        fine = found.imported in BELOW[package].split()
    exception = UPWARD.get((found.module, found.imported))
    return fine or (exception is not None and WHERE.index(found.where) >= WHERE.index(exception))


def allowed_outside(found: Import) -> bool:
    """Whether the table allows an import of a third-party package: where it says, or where it costs less."""
    for where, names in EXTERNAL.get(found.imported.split(".")[0], {}).items():
        if (names == "*" or found.module in names.split()) and WHERE.index(found.where) >= WHERE.index(where):
            return True
    return False


# -- imports -----------------------------------------------------------------------------------------------------------


def test_every_module_has_a_place_in_the_layers() -> None:
    placed = {f"{package}.{name}" for package, layers in LAYERS.items() for row in layers for name in row.split()}
    assert placed == set(modules()), "a new file needs a layer, one that has gone must leave the table"


def test_modules_import_from_lower_layers_only() -> None:
    ours = [found for found in all_imports() if found.imported.split(".")[0] in LAYERS]
    assert len(ours) > 80
    assert [str(found) for found in ours if not allowed(found)] == []


def test_each_third_party_package_is_imported_where_it_belongs_only() -> None:
    theirs = [found for found in all_imports() if found.imported.split(".")[0] not in LAYERS]
    assert [str(found) for found in theirs if not allowed_outside(found)] == []


def test_no_line_of_the_tables_is_idle() -> None:
    found = all_imports()
    pairs = {(i.module, i.imported) for i in found}
    assert set(UPWARD) <= pairs
    roots = {(i.module, i.imported.split(".")[0]) for i in found}
    for package, places in EXTERNAL.items():
        for names in places.values():
            for module in names.split() if names != "*" else []:
                assert (module, package) in roots, f"{module} no longer imports {package}"


@pytest.mark.parametrize(
    ("module", "source", "fine"),
    [
        ("trials.unlearn", "from trials.losses import x", True),
        ("trials.losses", "def f():\n  from trials.unlearn import run_trial", False),
        ("trials.config", "from orchestrator.ledger import x", False),
        ("trials.unlearn", "import search_spaces.space", False),
        ("search_spaces.space", "from trials.config import x", False),
        ("orchestrator.report.report", "from orchestrator.report import figures", True),
        ("orchestrator.results.front", "from orchestrator.report import figures", False),
        ("orchestrator.config", "from trials.unlearn import run_trial", False),
        ("orchestrator.worker", "from trials.unlearn import run_trial", False),
        ("orchestrator.worker", "def f():\n  from trials.unlearn import run_trial", True),
        ("trials.unlearn", "import ray", False),
        ("trials.metrics", "import numpy as np", True),
        ("orchestrator.tracking.tracker", "import mlflow", False),
        ("orchestrator.tracking.store", "import mlflow.entities", False),
        ("orchestrator.tracking.store", "class A:\n  def f(self):\n    if True:\n      import mlflow.entities", True),
        ("orchestrator.config", "import requests", False),
        ("trials.weighting", "import torch", False),
        ("trials.weighting", "if TYPE_CHECKING:\n  from torch import Tensor", True),
    ],
)
def test_the_rules_tell_right_imports_from_wrong_ones(module: str, source: str, fine: bool) -> None:
    (found,) = imports_of(module, source)
    judge = allowed if found.imported.split(".")[0] in LAYERS else allowed_outside
    assert judge(found) is fine


def test_what_is_imported_is_a_dependency_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    declared = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in lines}
    assert {PART_OF.get(name, name).replace("_", "-") for name in EXTERNAL} == declared


HEAVY = ("torch", "transformers", "ray", "optuna", "mlflow", "datasets", "matplotlib")


@pytest.mark.parametrize("module", ["cli", "config", "rehearsal.plan", "checks", "ledger"])
def test_what_answers_at_once_imports_nothing_heavy(module: str) -> None:
    code = f"import orchestrator.{module}, sys; print(*set({HEAVY}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == []


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_no_file_has_more_than_300_lines() -> None:
    long = {name: n for name, file in modules().items() if (n := len(file.read_text("utf-8").splitlines())) > 300}
    assert long == {}, "it has two ideas in it: split it"


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{node.name}", node


def test_no_function_has_more_than_60_lines() -> None:
    assert [name for name, node in functions() if (node.end_lineno or 0) - node.lineno + 1 > 60] == []


def test_no_function_has_more_than_6_parameters() -> None:
    def count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return len([argument for argument in arguments if argument.arg not in ("self", "cls")])

    # Those of a verb are its options.
    assert [name for name, node in functions() if count(node) > 6 and "_verbs." not in name] == []


def test_every_module_and_all_that_is_public_has_a_docstring() -> None:
    bare = []
    for name, file in modules().items():
        tree = ast.parse(file.read_text("utf-8"))
        places: list[tuple[str, ast.AST]] = [(name, tree)]
        places += [(f"{name}.{n.name}", n) for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        bare += [
            place
            for place, node in places
            if not place.rpartition(".")[2].startswith("_") and not ast.get_docstring(node)
        ]
    assert bare == []
