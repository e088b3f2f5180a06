"""The verbs of `unlearn-sweep`. Each imports what it needs itself: a typing mistake costs no time."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Exit codes: 0 ok, 1 the sweep failed, 2 bad input, 3 finished with failed trials, 130 interrupted."

app = typer.Typer(
    help="Find the loss weighting that makes a language model forget what it must and keep what it should.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[str, typer.Argument(help="sweep file, or the name of a shipped one", metavar="FILE")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="a setting over the file's, as in trial.epochs=5", metavar="PATH=VALUE"),
]
Output = Annotated[Path, typer.Option("--output", help="folder of run folders", metavar="DIR")]
Folder = Annotated[Path, typer.Argument(help="run folder, as in runs/smoke", metavar="RUN_FOLDER")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"unlearn-sweep {version('unlearn-sweep')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(file: File, settings: Set = None, output: Output = Path("runs")) -> None:
    """Run a sweep; on a run folder of the same sweep, run what is left of it.

    Examples: `unlearn-sweep run smoke`, or
    `unlearn-sweep run tofu_tiny --set trial.benchmark.path=tofu/ --set budget.trials=16`
    """
    from orchestrator.config import load_sweep
    from orchestrator.folder import check_folder
    from orchestrator.problems import find_sweep

    sweep, benchmark = load_sweep(file, settings or [], output=output)
    if benchmark:
        check_folder(output / sweep.name, sweep, benchmark)
    source = find_sweep(file).read_text(encoding="utf-8")
    if settings:
        source += "\n" + "".join(f"# --set {setting}\n" for setting in settings)

    from orchestrator.progress import show_outcome
    from orchestrator.sweep import run_sweep

    raise typer.Exit(show_outcome(run_sweep(sweep, benchmark, output=output, source=source)))


@app.command()
def plan(file: File, settings: Set = None, output: Output = Path("runs")) -> None:
    """Say what a sweep would run and cost, without running it.

    Example: `unlearn-sweep plan smoke --set budget.trials=100`
    """
    from rich.console import Console

    from orchestrator.config import load_sweep
    from orchestrator.plan import make_plan, show_plan

    sweep, benchmark = load_sweep(file, settings or [], output=output)
    show_plan(sweep, make_plan(sweep, benchmark, output), Console())


@app.command()
def presets() -> None:
    """List published settings: label, loss and source, for `loss.preset`, `baselines` and `trial --preset`.

    Example: `unlearn-sweep presets`
    """
    from rich.console import Console

    from orchestrator.design_space import show_presets

    show_presets(Console())


@app.command()
def trial(
    file: Annotated[str, typer.Argument(help="sweep file (its base trial is run) or a trial.json", metavar="FILE")],
    settings: Set = None,
    preset: Annotated[str | None, typer.Option(help="loss of a published setting", metavar="LABEL")] = None,
    folder: Annotated[Path, typer.Option(help="where its checkpoint goes", metavar="DIR")] = Path("runs/trial"),
    pdb: Annotated[bool, typer.Option("--pdb", help="open the debugger where it fails")] = False,
) -> None:
    """Run one trial in this process, without Ray.

    Examples: `unlearn-sweep trial smoke --preset wga`, or
    `unlearn-sweep trial runs/smoke/trials/00007/trial.json --set epochs=2`
    """
    from orchestrator.single import load_trial, run_single

    config = load_trial(file, settings or [], preset)
    raise typer.Exit(run_single(config, folder, debug=pdb))


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="folder of a model or of an adapter, or a hub id", metavar="DIR")],
    benchmark: Annotated[
        str, typer.Option(help="authors, tofu, muse, wmdp, or a YAML file with its settings", metavar="NAME")
    ],
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="names, patterns (forget.*) and groups, with commas between them", metavar="WORDS"),
    ] = None,
    retain_log: Annotated[Path | None, typer.Option(help="log of the retain model", metavar="FILE")] = None,
    target_log: Annotated[Path | None, typer.Option(help="log of the target model", metavar="FILE")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="a setting of a trial, as in benchmark.path=tofu/", metavar="PATH=VALUE"),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="where its log goes, as JSON", metavar="FILE")] = None,
) -> None:
    """Measure any model on a benchmark; the log can be the retain model's of a sweep or of another evaluation.

    Examples: `unlearn-sweep evaluate --model my/retain --benchmark muse --metrics muse --to retain.json`, or
    `unlearn-sweep evaluate --model my/model --benchmark muse --metrics muse --retain-log retain.json`
    """
    from orchestrator.standalone import load_request, run_evaluation

    request = load_request(
        model, benchmark, metrics or ["default"], settings or [], {"target": target_log, "retain": retain_log}, to
    )
    raise typer.Exit(run_evaluation(request))


@app.command()
def export(
    folder: Folder,
    to: Annotated[Path, typer.Option(help="folder to be made", metavar="DIR")],
    pick: Annotated[str, typer.Option(help="the knee of the front, or a trial", metavar="knee|TRIAL_ID")] = "knee",
    merge: Annotated[bool, typer.Option("--merge", help="a whole model, where the trial has an adapter")] = False,
) -> None:
    """Write the model of a trial as a transformers or peft folder with a model card, once it scores as recorded.

    Examples: `unlearn-sweep export runs/smoke --to my-model`, or
    `unlearn-sweep export runs/smoke --pick 00007 --to my-model --merge`
    """
    from orchestrator.export import load_pick, run_export

    raise typer.Exit(run_export(load_pick(folder, pick, to), to, merge=merge))


@app.command()
def resume(folder: Folder) -> None:
    """Go on with a sweep that was interrupted or killed: ended trials stay, the others finish.

    Example: `unlearn-sweep resume runs/smoke`
    """
    from orchestrator.config import reload_sweep

    sweep, benchmark = reload_sweep(folder)

    from orchestrator.progress import show_outcome
    from orchestrator.sweep import run_sweep

    raise typer.Exit(show_outcome(run_sweep(sweep, benchmark, output=folder.resolve().parent)))


@app.command()
def report(folder: Folder) -> None:
    """Make the report of a run folder again, from its records alone.

    Example: `unlearn-sweep report runs/smoke`
    """
    from orchestrator.problems import require_run_folder

    require_run_folder(folder)

    from orchestrator.report import write_report
    from orchestrator.tracking_uri import TrackingError
    from orchestrator.ui import UI, ui_links

    links = {}
    with contextlib.suppress(TrackingError):  # the report needs the records alone
        links = ui_links(folder, UI)
    write_report(folder, links)
    typer.echo(folder / "report.html")


@app.command()
def sync(folder: Folder) -> None:
    """Send MLflow what it lacks of a sweep, exactly once: after the tracking server was away, or to another one.

    Example: `MLFLOW_TRACKING_URI=http://127.0.0.1:5000 unlearn-sweep sync runs/smoke`
    """
    from orchestrator.ledger import in_use
    from orchestrator.problems import ConfigError, Problem, require_run_folder
    from orchestrator.tracking import sync as send

    require_run_folder(folder)
    if in_use(folder):
        raise ConfigError(str(folder), [Problem("", "the sweep is running, and sends what it has; wait for its end")])
    done = send(folder)
    typer.echo(f"{done.uri}: {done.sent} of {done.trials} trials sent, {done.points} points")


@app.command()
def ui(
    output: Annotated[Path, typer.Argument(help="folder of run folders", metavar="DIR")] = Path("runs"),
    port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 5000,
) -> None:
    """Open the MLflow UI on 127.0.0.1 and print links to each sweep's trials and front.

    Example: `unlearn-sweep ui runs --port 5000`
    """
    from orchestrator.problems import require_output
    from orchestrator.ui import serve_ui

    require_output(output)
    raise typer.Exit(serve_ui(output, port))


def main() -> None:
    """Entry point: errors that a user can mend are one clear message and exit code 2."""
    from orchestrator.problems import ConfigError, RunFailed
    from orchestrator.tracking_uri import TrackingError

    try:
        app()
    except (ConfigError, TrackingError) as error:
        typer.echo(error, err=True)
        sys.exit(2)
    except RunFailed as error:
        typer.echo(f"failed: {error}", err=True)
        sys.exit(1)
