"""Verbs for sweeps on a running cluster. Each imports what it needs itself: a typing mistake costs no time."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from orchestrator.access import use_token
from orchestrator.verbs import File, Set, app

Address = Annotated[
    str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="the cluster's dashboard", metavar="URL")
]
JobId = Annotated[str, typer.Argument(help="what `submit` printed, or `status` lists", metavar="ID")]
LOCAL = "http://127.0.0.1:8265"


@app.command()
def submit(
    file: File,
    output: Annotated[str, typer.Option(help="folder of run folders, shared by all nodes", metavar="DIR")],
    address: Address = LOCAL,
    settings: Set = None,
    name: Annotated[str | None, typer.Option(help="what the job is called", metavar="ID")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="do not wait for its end")] = False,
) -> None:
    """Run a sweep on a running cluster, with this very code; follow its log, and end with its exit code.

    Ctrl-C leaves the job running. Submitted again with the same --output, a sweep goes on with what is left of it.

    Example: `unlearn-sweep submit smoke --output /mnt/shared/runs --address http://127.0.0.1:8265`
    """
    use_token()

    from orchestrator import jobs
    from orchestrator.submission import check_request

    sweep, notes = check_request(file, settings or [], output, name)
    client = jobs.connect_jobs(address)
    with jobs.told_well(address):
        job_id, taken = jobs.submit(client, file, settings or [], output=output, sweep=sweep, job_id=name)
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"job {job_id}; it takes along {', '.join(taken) or 'no variable'}", err=True)
    if detach:
        typer.echo(_how_to_go_on(job_id, address), err=True)
    else:
        _follow(job_id, address)


@app.command()
def status(
    job_id: Annotated[str | None, typer.Argument(help="a job; without it, all of them", metavar="ID")] = None,
    address: Address = LOCAL,
) -> None:
    """Say how the jobs of a cluster stand: state, exit code, sweep, run folder.

    Example: `unlearn-sweep status --address http://127.0.0.1:8265`
    """
    use_token()

    from rich.console import Console
    from rich.table import Table

    from orchestrator import jobs

    client = jobs.connect_jobs(address)
    with jobs.told_well(address):
        found = jobs.jobs_of(client) if job_id is None else [jobs.Job.of(client.get_job_info(job_id))]
    table = Table("job", "status", "exit code", "minutes", "run folder")
    for job in found:
        minutes = f"{((job.ended or time.time()) - job.started) / 60:.1f}" if job.started else ""
        code = str(job.exit_code) if job.ended_for_good else ""
        about = job.about
        folder = f"{about['output'].rstrip('/')}/{about['sweep']}" if "output" in about else ""
        table.add_row(job.job_id, job.status.lower(), code, minutes, folder)
    Console(soft_wrap=True).print(table if found else "no jobs yet")
    for job in found if job_id else []:
        typer.echo(job.message)


@app.command()
def logs(
    job_id: JobId,
    address: Address = LOCAL,
    follow: Annotated[bool, typer.Option("--follow", help="until its end, with its exit code")] = False,
) -> None:
    """Print the log of a job; with --follow, go on until it ends, as `submit` does.

    Example: `unlearn-sweep logs smoke-1a2b3c --follow`
    """
    use_token()
    if follow:
        _follow(job_id, address)

    from orchestrator import jobs

    client = jobs.connect_jobs(address)
    with jobs.told_well(address):
        typer.echo(client.get_job_logs(job_id), nl=False)


@app.command()
def stop(job_id: JobId, address: Address = LOCAL) -> None:
    """Stop a job as Ctrl-C stops `run`: its report is written, and submitting it again goes on.

    Example: `unlearn-sweep stop smoke-1a2b3c`
    """
    use_token()

    from orchestrator import jobs

    client = jobs.connect_jobs(address)
    with jobs.told_well(address):
        client.stop_job(job_id)
    typer.echo(f"stopping {job_id}; its report may take a minute", err=True)
    job = jobs.follow(client, job_id, lambda _: None, lambda line: typer.echo(line, err=True))
    typer.echo(f"{job.job_id} {job.status.lower()}")


def _follow(job_id: str, address: str) -> None:
    """Prints the log of a job until it ends, and ends with its exit code; Ctrl-C leaves it."""
    from orchestrator import jobs

    def write(text: str) -> None:
        typer.echo(text, nl=False)
        sys.stdout.flush()

    client = jobs.connect_jobs(address)
    try:
        with jobs.told_well(address):
            job = jobs.follow(client, job_id, write, lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        typer.echo(f"\n{_how_to_go_on(job_id, address)}", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{job.job_id} {job.status.lower()}, exit code {job.exit_code}", err=True)
    if job.code is None and job.status == "FAILED":
        typer.echo(job.message, err=True)
    raise typer.Exit(job.exit_code)


def _how_to_go_on(job_id: str, address: str) -> str:
    there = "" if address == LOCAL else f" --address {address}"
    verbs = {"follow": f"logs {job_id} --follow", "look": f"status {job_id}", "stop": f"stop {job_id}"}
    lines = [f"  {word + ':':8}unlearn-sweep {command}{there}" for word, command in verbs.items()]
    return "\n".join(["the job runs on", *lines])
