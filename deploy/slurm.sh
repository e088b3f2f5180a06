#!/usr/bin/env bash
# One sweep on the nodes of a SLURM job: a head on the first, a worker on each other, the driver in this script.
#
#   sbatch --nodes 4 deploy/slurm.sh smoke --output /shared/runs
#
# Arguments are those of `unlearn-sweep run`; --output must be a folder that all nodes share. Submitted again, the sweep
# goes on with what is left. Ray's ports are open on the nodes while the job runs: the token, made for this job and
# readable for its owner only, keeps others out.
#SBATCH --job-name=unlearn-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
# The last: five minutes before the time is up, the sweep stops as by Ctrl-C, and writes its report.
set -euo pipefail
umask 077

# `sbatch` and `srun` take the environment along: submit from a shell where `unlearn-sweep` is a command.
state="$SLURM_SUBMIT_DIR/.unlearn-sweep-$SLURM_JOB_ID"    # shared by the nodes, and for the owner only
mkdir "$state"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$state/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token" RAY_memory_monitor_refresh_ms=0
unset RAY_AUTH_TOKEN

ours=()        # process ids of what runs beside the driver
driver=""
finish() {
  trap - EXIT TERM INT
  if [ "${#ours[@]}" -gt 0 ]; then
    kill -TERM "${ours[@]}" 2>/dev/null || true
    wait "${ours[@]}" || true
  fi
  rm -rf "$state"
}
trap finish EXIT
trap 'if [ -n "$driver" ]; then kill -TERM "$driver"; else exit 130; fi' TERM INT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
address="$(srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" hostname --ip-address | awk '{print $1}')"
port=$((20000 + SLURM_JOB_ID % 10000 * 2))    # two jobs may share a node; above the ports of Ray's workers
export RAY_ADDRESS="$address:$port"
here=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --dashboard-agent-listen-port=0 --block)

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false --disable-usage-stats \
  --temp-dir="${TMPDIR:-/tmp}/ray-$SLURM_JOB_ID" "${here[@]}" > "$state/head.log" 2>&1 &
ours+=($!)
until ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1; do
  kill -0 "${ours[0]}" || { cat "$state/head.log"; exit 1; }
  sleep 1
done
if [ "${#nodes[@]}" -gt 1 ]; then
  others=$((${#nodes[@]} - 1))
  srun --nodes="$others" --ntasks="$others" --overlap --exclude="$head" \
    ray start --address="$RAY_ADDRESS" "${here[@]}" > "$state/workers.log" 2>&1 &
  ours+=($!)
fi
# How many trials run at once is settled when the sweep starts: all nodes must be there.
python - "${#nodes[@]}" <<'PYTHON'
import sys
import time

import ray

ray.init(logging_level="ERROR", log_to_driver=False)
until = time.monotonic() + 600
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > until:
        sys.exit(f"only {len(ray.nodes())} of {sys.argv[1]} nodes joined within ten minutes")
    time.sleep(1)
PYTHON

python -m orchestrator.cli run "$@" &
driver=$!
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2>/dev/null; then    # `wait` came back for a signal: the sweep writes its report
  code=0
  wait "$driver" || code=$?
fi
exit "$code"
