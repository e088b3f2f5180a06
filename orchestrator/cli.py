"""The entry point: the verbs, and how their errors are told."""

from __future__ import annotations

import errno
import sys

import typer

from orchestrator import cluster_verbs, doctor_verbs, sweep_verbs, view_verbs
from orchestrator.access import take_over
from orchestrator.verbs import EPILOG, app

__all__ = ["EPILOG", "app", "cluster_verbs", "doctor_verbs", "main", "sweep_verbs", "view_verbs"]


def main() -> None:
    """Entry point: errors that a user can mend are one clear message and exit code 2."""
    from orchestrator.problems import ConfigError, RunFailed
    from orchestrator.redaction import redacted
    from orchestrator.salvage import LedgerError
    from orchestrator.tracking.uri import TrackingError

    take_over()
    try:
        app()
    except (ConfigError, LedgerError, TrackingError) as error:
        typer.echo(redacted(str(error)), err=True)
        sys.exit(2)
    except RunFailed as error:
        typer.echo(redacted(f"failed: {error}"), err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        typer.echo(f"a path is longer than the system can take: {str(error.filename)[:60]!r}..; shorten it", err=True)
        sys.exit(2)


if __name__ == "__main__":  # the entry point of a job, whose nodes may have no `unlearn-sweep` on their PATH
    main()
