"""The verb that looks a machine or a cluster over before a sweep does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.verbs import Output, Set, app


@app.command()
def doctor(
    file: Annotated[str | None, typer.Argument(help="sweep file that is to run there", metavar="FILE")] = None,
    settings: Set = None,
    output: Output = Path("runs"),
    address: Annotated[
        str | None, typer.Option(help="of a Ray cluster; without it RAY_ADDRESS, else this machine", metavar="URL")
    ] = None,
) -> None:
    """Check versions, GPUs, storage, tracking, open doors, clocks and disks of every node, and say what to do.

    Examples: `unlearn-sweep doctor`, or `unlearn-sweep doctor tofu_tiny --address auto`
    """
    from orchestrator.config import load_sweep

    sweep = load_sweep(file, settings or [], output=output)[0] if file else None

    from rich.console import Console

    from orchestrator.doctor import gather, show
    from orchestrator.health import findings
    from orchestrator.problems import ConfigError, Problem
    from orchestrator.resources import AUTO

    address = address or os.environ.get("RAY_ADDRESS") or None
    uri = sweep.tracking.uri if sweep else None
    gpu = sweep.resources.share if sweep and sweep.resources.gpu != AUTO else 0.0  # auto takes what there is
    try:
        facts = gather(output, uri=uri, gpu=gpu, address=address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "start it, correct the address, and see that RAY_AUTH_MODE and the token are the cluster's"
        raise ConfigError("--address", [Problem("", f"no cluster answers at {address!r} ({why}); {remedy}")]) from None
    raise typer.Exit(show(findings(facts), Console()))
