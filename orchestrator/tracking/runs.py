"""What a trial, a model that is none, and a sweep are called and tagged in MLflow.

Tags are what runs are filtered by (`tags.front = 'true' and tags.method = 'satimp'`), so each trial has all of `state`,
`front`, `baseline`, `method`, `origin`, `of` and `seed`, whatever they are.
"""

from __future__ import annotations

from orchestrator.events import Anchor, Ended, Suggested, SweepInfo
from orchestrator.redaction import redacted
from orchestrator.results.front import method_of

ANCHORS = {"target": "target model", "retain": "retain model"}
"""Name of a model that is not a trial -> name of its run."""


def trial_name(trial: Suggested) -> str:
    """`00007 npo`: a trial, and what is special about it."""
    seed = f"seed {trial.seed} of {trial.of}" if trial.of else None
    words = [word for word in (trial.label or trial.design, seed) if word]
    return redacted(f"{trial.trial_id} {', '.join(words)}".strip())


def trial_tags(trial: Suggested, info: SweepInfo) -> dict[str, str]:
    """What is known of a trial before it runs; later `state`, `epoch` and `front` change."""
    tags = {
        "trial_id": trial.trial_id,
        "fingerprint": trial.fingerprint,
        "state": "RUNNING",
        "front": "false",
        "baseline": trial.label or "none",
        "method": method_of(trial),
        "origin": trial.origin,
        "seed": str(trial.seed),
        "of": trial.of or "none",
    }
    tags |= {"phase": str(trial.phase)} if trial.phase is not None else {}
    tags |= {"design": trial.design} if trial.design else {}
    return {key: redacted(value) for key, value in (tags | _made_by(info)).items()}


def end_tags(end: Ended) -> dict[str, str]:
    """How a trial ended; `violations` names the constraints that it misses."""
    tags = {"state": end.state, "epoch": str(end.epoch)}
    tags |= {"failure": end.failure} if end.failure else {}
    return tags | ({"violations": ", ".join(end.violations)} if end.violations else {})


def anchor_tags(anchor: Anchor, info: SweepInfo) -> dict[str, str]:
    """Of the run of the target or retain model: neither `state` nor `front`, for it is no trial."""
    return {"anchor": anchor.name, "origin": "anchor", "of": "none"} | _made_by(info)


def sweep_tags(info: SweepInfo) -> dict[str, str]:
    """Of the run of the sweep itself."""
    versions = {f"versions.{key}": value for key, value in info.versions.items()}
    digests = {"fingerprint": info.fingerprint, "data": info.data, "model": info.model}
    return {"origin": "sweep"} | digests | versions | _made_by(info)


def _made_by(info: SweepInfo) -> dict[str, str]:
    commit = info.git_commit
    made = {"mlflow.source.name": f"unlearn-sweep run {info.name}", "mlflow.source.type": "LOCAL"}
    return made | ({"git_commit": commit, "mlflow.source.git.commit": commit} if commit else {})
