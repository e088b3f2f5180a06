"""The files that launch a cluster, against Ray's own schema and against what they promise."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.ledger import read_records
from orchestrator.submission import PACKAGES

ROOT = Path(__file__).parents[1]
LAUNCHED = ("cluster.yaml", "cluster.local.yaml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line)


def launcher(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text("utf-8"))
    return loaded


def starts(config: dict[str, Any]) -> list[str]:
    """The commands that start Ray, on the head and on the workers."""
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


# -- the cluster launcher ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_the_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher(name))
    validate_config(prepared)
    assert prepared["cluster_name"] == "unlearn-sweep"


@pytest.mark.parametrize("change", [{"colour": "red"}, {"head_node_type": "none"}, {"max_workers": "many"}])
def test_ray_refuses_a_file_that_is_wrong(change: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises((ValidationError, ValueError, TypeError, KeyError)):
        validate_config(prepare_config(launcher("cluster.yaml") | change))


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_asks_for_the_token_and_is_given_it(name: str) -> None:
    config = launcher(name)
    assert len(starts(config)) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts(config))
    assert all("RAY_memory_monitor_refresh_ms=0" in command for command in starts(config))
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_dashboard_is_on_loopback_and_no_port_is_opened(name: str) -> None:
    config = launcher(name)
    head, worker = starts(config)
    assert "--dashboard-host=127.0.0.1" in head
    assert "--head" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    text = (ROOT / name).read_text("utf-8")
    assert "0.0.0.0" not in text
    assert "--ray-client-server-port" not in text
    assert set(config["provider"].get("security_group", {})) <= {"GroupName"}  # and so none of its own rules


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_installs_this_very_version(name: str) -> None:
    config = launcher(name)
    assert config["file_mounts"]["~/unlearn-sweep"] == "."
    installs = [command for command in config["setup_commands"] if "pip install" in command]
    assert len(installs) == 1
    assert "cd ~/unlearn-sweep &&" in installs[0]
    assert "--constraint constraints.txt '.[cluster]'" in installs[0]
    assert {".venv", ".git", "runs"} <= set(config["rsync_exclude"])


def test_nodes_of_the_cloud_say_what_they_have_and_what_they_cost() -> None:
    types = launcher("cluster.yaml")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu_worker"]["resources"]["GPU"] >= 1
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["cpu_worker"]["resources"]["GPU"] == 0
    for kind in ("gpu_worker", "cpu_worker"):
        assert types[kind]["min_workers"] < types[kind]["max_workers"]
        assert types[kind]["resources"]["CPU"] >= 1


def test_versions_are_those_of_the_project() -> None:
    pinned = next(need for need in PROJECT["dependencies"] if need.startswith("ray[tune]")).partition(">=")[2]
    assert PINS["ray"].startswith(pinned.partition(",")[0])
    assert PROJECT["optional-dependencies"]["cluster"] == [f"ray[default]>={pinned}"]
    images = [launcher("cluster.yaml")["docker"]["image"], launcher("cluster.yaml")["docker"]["worker_image"]]
    images += re.findall(r"^FROM (\S+)", (ROOT / "deploy/Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert set(images) == {f"rayproject/ray:{PINS['ray']}-py311-gpu"}
    job = rayjob()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    tag = re.search(r"-t (\S+)", (ROOT / "deploy/Dockerfile").read_text("utf-8"))
    ours = {container["image"] for container in containers(job)}
    assert tag
    assert ours == {tag[1]} == {f"registry.example.com/unlearn-sweep:{PROJECT['version']}"}


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def rayjob() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((ROOT / "deploy/kuberay.yaml").read_text("utf-8")))
    (job,) = [document for document in documents if document["kind"] == "RayJob"]
    return job  # type: ignore[no-any-return]


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    spec = job["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for group in groups(job) for container in group["template"]["spec"]["containers"]]


def test_the_rayjob_runs_our_driver_and_has_what_kuberay_asks_for() -> None:
    job = rayjob()
    assert job["apiVersion"] == "ray.io/v1"
    assert job["spec"]["entrypoint"].startswith("python -m orchestrator.cli run ")
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    ports = {port["name"]: port["containerPort"] for port in containers(job)[0]["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265}
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert containers(job)[1]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for container in containers(job):
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]


def test_the_rayjob_has_its_token_from_a_secret_and_no_door_to_the_outside() -> None:
    text = (ROOT / "deploy/kuberay.yaml").read_text("utf-8")
    spec = rayjob()["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "unlearn-sweep-token"}
    assert "create secret generic unlearn-sweep-token --from-literal=auth_token=" in text
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not re.search("LoadBalancer|NodePort|Ingress", text)


def test_run_folders_are_on_a_volume_that_all_pods_share() -> None:
    job = rayjob()
    claims = [d for d in yaml.safe_load_all((ROOT / "deploy/kuberay.yaml").read_text("utf-8")) if d["kind"] != "RayJob"]
    assert [claim["spec"]["accessModes"] for claim in claims] == [["ReadWriteMany"]]
    output = re.search(r"--output (\S+)", job["spec"]["entrypoint"])
    assert output
    for group, container in zip(groups(job), containers(job), strict=True):
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert (
            mounted[str(Path(output[1]).parent)]["persistentVolumeClaim"]["claimName"] == claims[0]["metadata"]["name"]
        )
        assert "/dev/shm" in mounted


def test_the_image_has_all_that_is_installed() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    assert all(f"COPY --chown=ray {package} " in text for package in PACKAGES)
    for name in ("pyproject.toml", "constraints.txt", PROJECT["readme"], *PROJECT["license-files"]):
        assert name in text


# -- SLURM -------------------------------------------------------------------------------------------------------------

SLURM = ROOT / "deploy/slurm.sh"
FAKES = {
    # Two nodes of a list that SLURM writes as one word.
    "scontrol": '[ "$1 $2 $3" = "show hostnames fake[1-2]" ] && printf "fake1\\nfake2\\n"',
    # Every node is this machine. Its steps leave their process ids, for the test.
    "srun": 'while [[ "$1" == --* ]]; do shift; done; echo $$ >> "$SLURM_SUBMIT_DIR/steps"; exec "$@"',
}


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def test_the_batch_script_is_bash_and_shows_its_token_to_nobody() -> None:
    assert subprocess.run(["bash", "-n", SLURM], timeout=30).returncode == 0
    text = SLURM.read_text("utf-8")
    assert os.access(SLURM, os.X_OK)
    assert "umask 077" in text
    assert text.index("umask 077") < text.index('> "$state/token"')
    assert not re.search(r"RAY_AUTH_TOKEN=|ray stop|pkill|killall|0\.0\.0\.0", text)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_batch_script_runs_a_sweep_on_two_nodes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    import psutil

    fakes = tmp_path / "bin"
    fakes.mkdir()
    for name, body in FAKES.items():
        (fakes / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (fakes / name).chmod(0o755)
    port = next(port for port in range(20000 + os.getpid() % 5000 * 2, 40000, 2) if is_free(port))
    outside = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in outside}
    environment |= {
        "SLURM_JOB_ID": str((port - 20000) // 2),
        "SLURM_JOB_NODELIST": "fake[1-2]",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join([str(fakes), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    words = ["smoke", "--output", str(tmp_path / "runs"), "--set", "budget.trials=3", "--set", "trial.epochs=2"]
    words += ["--set", "scheduler={type: none}", "--set", "baselines=[]"]
    with open(tmp_path / "out", "w") as out:
        ran = subprocess.run([SLURM, *words], env=environment, stdout=out, stderr=out, timeout=360, cwd=ROOT)
    printed = (tmp_path / "out").read_text()
    assert ran.returncode == 0, printed
    assert "3 complete, 0 pruned, 0 fail" in printed
    assert len(read_records(tmp_path / "runs/smoke")) == 3
    steps = [int(line) for line in (tmp_path / "steps").read_text().split()]
    assert len(steps) == 3  # the head's address, the head, the other node
    assert not [step for step in steps if psutil.pid_exists(step)]
    assert not list(tmp_path.glob(".unlearn-sweep-*"))
    mine = f"ray-{environment['SLURM_JOB_ID']}/"
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or [])]
    assert left == []
