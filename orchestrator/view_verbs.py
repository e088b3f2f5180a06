"""Verbs that look at what came out. Each imports what it needs itself: a typing mistake costs no time."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.verbs import Folder, app


@app.command()
def report(folder: Folder) -> None:
    """Make the report of a run folder again, from its records alone.

    Example: `unlearn-sweep report runs/smoke`
    """
    from orchestrator.problems import require_run_folder

    require_run_folder(folder)

    from orchestrator.housekeeping import disk_of
    from orchestrator.ledger import read_records
    from orchestrator.report.report import write_report
    from orchestrator.tracking.ui import UI, ui_links
    from orchestrator.tracking.uri import TrackingError

    links = {}
    with contextlib.suppress(TrackingError):  # the report needs the records alone
        links = ui_links(folder, UI)
    write_report(folder, links)
    typer.echo(folder / "report.html")
    typer.echo(disk_of(folder, read_records(folder)))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="run folders, two or more", metavar="RUN_FOLDER...")],
    to: Annotated[Path | None, typer.Option(help="also to a file, .md or .csv", metavar="FILE")] = None,
) -> None:
    """Say which of some sweeps reaches more, by how much, and whether that can be told; nothing is run.

    Example: `unlearn-sweep compare runs/tpe runs/random --to comparison.md`
    """
    from rich.console import Console

    from orchestrator.report.compare_words import check_target, show_comparison, write_comparison
    from orchestrator.results.compare import compare as compared
    from orchestrator.results.compare import load_sides

    check_target(to)
    found = compared(load_sides(folders))
    show_comparison(found, Console())
    if to is not None:
        write_comparison(found, to)


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
def sync(folder: Folder) -> None:
    """Send MLflow what it lacks of a sweep, exactly once: after the tracking server was away, or to another one.

    Example: `MLFLOW_TRACKING_URI=http://127.0.0.1:5000 unlearn-sweep sync runs/smoke`
    """
    from orchestrator.ledger import in_use
    from orchestrator.problems import ConfigError, Problem, require_run_folder
    from orchestrator.tracking.tracker import sync as send

    require_run_folder(folder)
    if in_use(folder):
        raise ConfigError(str(folder), [Problem("", "the sweep is running, and sends what it has; wait for its end")])
    done = send(folder)
    typer.echo(f"{done.uri}: {done.sent} of {done.trials} trials sent, {done.points} points")


@app.command()
def ui(
    output: Annotated[Path, typer.Argument(help="folder of run folders", metavar="DIR")] = Path("runs"),
    port: Annotated[int, typer.Option(help="where it listens", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="address to bind to; any but 127.0.0.1 opens every record to others", metavar="IP")
    ] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on 127.0.0.1 and print links to each sweep's trials and front.

    Example: `unlearn-sweep ui runs --port 5000`
    """
    from orchestrator.problems import require_output
    from orchestrator.tracking.ui import serve_ui

    require_output(output)
    raise typer.Exit(serve_ui(output, port, host))
