"""Verbs that run sweeps, or say what would run. Each imports what it needs itself: a typing mistake costs no time."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.access import use_token
from orchestrator.verbs import File, Folder, Output, Set, app


@app.command()
def run(file: File, settings: Set = None, output: Output = Path("runs")) -> None:
    """Run a sweep; on a run folder of the same sweep, run what is left of it, or what `resume --set` could add.

    RAY_ADDRESS names a running cluster (auto: the one of this machine); without it, Ray starts here.

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

    use_token()

    from orchestrator.cluster import join
    from orchestrator.progress import show_outcome
    from orchestrator.sweep import run_sweep

    join()
    raise typer.Exit(show_outcome(run_sweep(sweep, benchmark, output=output, source=source)))


@app.command()
def plan(file: File, settings: Set = None, output: Output = Path("runs")) -> None:
    """Say what a sweep would run and cost, without running it.

    Example: `unlearn-sweep plan smoke --set budget.trials=100`
    """
    from rich.console import Console

    from orchestrator.config import load_sweep
    from orchestrator.problems import ConfigError
    from orchestrator.rehearsal.plan import make_plan, show_plan
    from orchestrator.rehearsal.recordings import found_curves

    sweep, benchmark = load_sweep(file, settings or [], output=output)
    planned, expected = make_plan(sweep, benchmark, output), None
    with contextlib.suppress(ConfigError):  # no recorded curves fit: arithmetic alone
        curves = found_curves(sweep, output)

        from orchestrator.rehearsal.rehearse import forecast

        expected = forecast(sweep, curves, gpus=planned.concurrent or 8)
    show_plan(sweep, planned, Console(), expected)


@app.command()
def rehearse(
    file: File,
    settings: Set = None,
    curves: Annotated[
        list[Path] | None,
        typer.Option(help="recorded curves: a .parquet, or a run folder; several are seeds of one space"),
    ] = None,
    repeats: Annotated[int, typer.Option(help="simulations of each strategy", min=2)] = 20,
    gpus: Annotated[int, typer.Option(help="simulated: trials at once", min=1)] = 8,
    strategies: Annotated[
        str, typer.Option(help="what to compare with, with commas between them", metavar="NAMES")
    ] = "tpe,nsga2,tpe+halving",
    output: Output = Path("runs"),
) -> None:
    """Try a sweep's strategy on recorded learning curves, beside others at equal epochs: seconds, no GPU.

    Examples: `unlearn-sweep rehearse tofu_tiny`, or
    `unlearn-sweep rehearse my_sweep.yaml --curves runs/earlier --set scheduler.grace_period=4`
    """
    from rich.console import Console

    from orchestrator.config import load_sweep
    from orchestrator.rehearsal.recordings import found_curves, given_curves

    sweep, _ = load_sweep(file, settings or [], output=output)
    recorded = given_curves(curves, sweep) if curves else found_curves(sweep, output)

    from orchestrator.rehearsal.rehearse import named_strategies, show_rehearsal
    from orchestrator.rehearsal.rehearse import rehearse as rehearsed

    found = rehearsed(sweep, recorded, repeats=repeats, gpus=gpus, strategies=named_strategies(strategies))
    show_rehearsal(found, recorded.differences(sweep), Console())


@app.command()
def resume(
    folder: Folder,
    trials: Annotated[int | None, typer.Option(help="short for --set budget.trials=N", metavar="N")] = None,
    settings: Set = None,
) -> None:
    """Go on with a sweep that was interrupted, killed or is to be extended: ended trials stay, the others finish.

    Budgets, resources and `confirm` may change, a space may grow, and phases may follow at the end.

    Examples: `unlearn-sweep resume runs/smoke`, or
    `unlearn-sweep resume runs/smoke --trials 40 --set space.optim.lr.float=[5e-5,2e-3]`
    """
    from orchestrator.config import reload_sweep
    from orchestrator.folder import check_folder, resumed_source

    changes = [*(settings or []), *([f"budget.trials={trials}"] if trials is not None else [])]
    sweep, benchmark = reload_sweep(folder, changes)
    if benchmark:
        check_folder(folder, sweep, benchmark)
    source = resumed_source(folder, changes)

    use_token()

    from orchestrator.cluster import join
    from orchestrator.progress import show_outcome
    from orchestrator.sweep import run_sweep

    join()
    raise typer.Exit(show_outcome(run_sweep(sweep, benchmark, output=folder.resolve().parent, source=source)))


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
def presets() -> None:
    """List published settings: label, loss and source, for `loss.preset`, `baselines` and `trial --preset`.

    Example: `unlearn-sweep presets`
    """
    from rich.console import Console

    from orchestrator.reference.design_space import show_presets

    show_presets(Console())


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="W&B sweep, axolotl sweep, or script", metavar="FILE")],
    to: Annotated[Path | None, typer.Option(help="sweep file to be made; without it, printed", metavar="FILE")] = None,
    tool: Annotated[
        str | None, typer.Option("--format", help="wandb, axolotl or hydra; without it, by the contents")
    ] = None,
) -> None:
    """Turn a W&B sweep, an axolotl sweep or Hydra overrides into a sweep file, and list what has no place in it.

    Example: `unlearn-sweep import sweep.sh --to my_sweep.yaml`
    """
    from orchestrator.importing.sweep_file import import_sweep, write_import

    imported = import_sweep(source, tool)
    if to:
        write_import(imported, to)
    else:
        typer.echo(imported.text, nl=False)
    for remark in imported.remarks:
        typer.echo(remark, err=True)
    made = f"{to} from {imported.tool}; next: unlearn-sweep plan {to}" if to else f"read as {imported.tool}"
    typer.echo(made, err=True)
