#!/usr/bin/env bash
# The benchmarks that need a GPU, one after the other; what they print goes to results/gpu-<device>.txt too.
#   benchmarks/gpu.sh [FOLDER OF TOFU FILES]      PYTHON: the interpreter (default: .venv/bin/python)
set -uo pipefail
tofu=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
if [ -z "$device" ]; then
  echo "torch sees no GPU here: check nvidia-smi, and that torch is not a build for the CPU" >&2
  exit 2
fi
mkdir -p results
out="results/gpu-${device//[^A-Za-z0-9]/-}.txt"
failed=0

run() { # one benchmark: its command line (without the reader's folder), what it prints, and that it failed
  local line="$*"
  [ -z "$tofu" ] || line=${line/"$tofu"/TOFU}
  { echo; echo "\$ python benchmarks/$line"; } | tee -a "$out"
  "$python" benchmarks/"$@" 2>&1 | tee -a "$out" || { failed=1; echo "FAILED" | tee -a "$out"; }
}

gpu=(--device cuda --dtype bfloat16)
benchmark=(${tofu:+--benchmark "$tofu"})
{
  echo "$device, $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  "$python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
  "$python" -c 'import cut_cross_entropy; print("with cut-cross-entropy")' 2>/dev/null || echo "without cut-cross-entropy"
} | tee "$out"
run loss_memory.py "${gpu[@]}" --hidden 2048
run train_step.py "${gpu[@]}" --model 1B "${benchmark[@]}"
run train_step.py "${gpu[@]}" --model 1B --batch-size 32 "${benchmark[@]}"
run train_step.py "${gpu[@]}" --model 1B --adapter lora "${benchmark[@]}"
run pack.py "${gpu[@]}" --model 100M --k 1 2 4 8 16
run pack.py "${gpu[@]}" --model 1B --k 1 2 4 8 16
run trial_throughput.py "${gpu[@]}" --model 1B --trials 3 --epochs 3 "${benchmark[@]}"
echo "written: $out"
exit "$failed"
