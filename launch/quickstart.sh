#!/usr/bin/env bash
# From a fresh clone to translations: makes .venv, trains configs/quickstart.py, writes a report, scores the test split, translates five
# phrases. Run again, it resumes what was interrupted and repeats nothing that is done.
#
#   bash launch/quickstart.sh
#
# PYTHON=/path/to/python chooses the Python (3.11 or 3.12), LOCK=requirements.txt the lock (else by hardware).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

run_dir=runs/quickstart

# CUDA 13 needs NVIDIA driver 580 or newer and compute capability 7.5 (Turing) or newer; jax would not start on others.
has_nvidia_gpu() {
  local gpu
  gpu=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null) || return 1
  [[ "$gpu" =~ ^([0-9]+)[0-9.]*,\ ([0-9]+)\.([0-9]+) ]] || return 1
  if ((BASH_REMATCH[1] < 580 || BASH_REMATCH[2] * 10 + BASH_REMATCH[3] < 75)); then
    echo "hardware: CUDA 13 needs driver 580 and compute capability 7.5, the GPU has ${gpu%%$'\n'*}; using the CPU" >&2
    return 1
  fi
}

# Google's PCI vendor id and its TPUs' device ids (v3 to 7x), by which jax itself knows a TPU: jax/_src/hardware_utils.py.
# Google's network and disk devices have the vendor id too.
has_tpu() {
  local device
  for device in /sys/bus/pci/devices/*; do
    [[ "$(cat "$device/vendor" 2>/dev/null)" == 0x1ae0 ]] || continue
    case "$(cat "$device/device" 2>/dev/null)" in
      0x0027 | 0x0056 | 0x005e | 0x0062 | 0x0063 | 0x006f | 0x0076) return 0 ;;
    esac
  done
  return 1
}

choose_lock() {
  if [[ -n "${LOCK:-}" ]]; then
    [[ -f "$LOCK" ]] || fail "LOCK=$LOCK is not a file; use requirements.txt, launch/requirements-cuda.txt or launch/requirements-tpu.txt"
    echo "$LOCK"
  elif has_nvidia_gpu; then
    echo launch/requirements-cuda.txt
  elif has_tpu; then
    echo launch/requirements-tpu.txt
  else
    echo requirements.txt
  fi
}

translate() {
  # shellcheck disable=SC2016 # a dollar amount, not a variable
  local phrases=(
    'May 14 – Jun 13, 2023'
    '$1,234.50'
    '3 hours, 12 minutes'
    '25 kilometers per hour'
    'Sunday, March 5, 2023 at 4:05 PM'
  )
  local translations index
  translations=$(printf '%s\n' "${phrases[@]}" | .venv/bin/python -m flax_s2s decode "$run_dir")
  index=0
  while IFS= read -r translation; do
    printf '  %s%*s%s\n' "${phrases[index]}" $((36 - ${#phrases[index]})) '' "$translation"
    index=$((index + 1))
  done <<<"$translations"
}

lock=$(choose_lock)
make_environment .venv "$lock"
install_secs=$SECONDS

echo "training: configs/quickstart.py -> $run_dir"
.venv/bin/python -m flax_s2s train configs/quickstart.py --run-dir "$run_dir" --report
echo "evaluation: the test split"
.venv/bin/python -m flax_s2s evaluate "$run_dir" --split test --json "$run_dir/test.json"
echo "translation: five phrases"
translate

cat <<END
time: $install_secs s for the environment, $((SECONDS - install_secs)) s for the work

Next:
  source .venv/bin/activate
  echo 'your own line' | flax-s2s decode $run_dir
  flax-s2s train configs/quickstart.py --run-dir runs/mine --data.format tsv --data.folder FOLDER \\
    --data.train train.tsv --data.valid '' --data.test '' --data.source 0 --data.target 1 --data.max-train-pairs 0 \\
    --vocab.kind unigram --vocab.size 4000
  flax-s2s train --help
  tensorboard --logdir runs    # after: pip install tensorboard

Curves, scores and sentences to look at, in a browser: $PWD/$run_dir/report.html
END
