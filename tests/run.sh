#!/usr/bin/env bash
# The test command: makes .venv-test from tests/requirements.txt, then lint, format, types and tests. All of them run,
# whatever fails; the exit status is 0 only if nothing did. Arguments go to pytest:
#
#   bash tests/run.sh -k beam
#   bash tests/run.sh --launch      # the tests with a live Slurm, Open MPI and MPICH, which it installs by apt (needs root)
#   bash tests/run.sh --browser     # the tests of the page in Chromium, which it installs by apt (needs root, if it is not there)
#   bash tests/run.sh --gpu-aot     # those that compile for NVIDIA GPUs, with a compiler that it fetches (250 MB, 710 MB on disk)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

# install_programs OPTION PROGRAM:PACKAGE ...: Debian's and Ubuntu's packages; nothing is asked of apt where the programs are there.
install_programs() {
  local option=$1 missing=() pair
  for pair in "${@:2}"; do
    PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  if ((${#missing[@]})); then
    ((EUID == 0)) || fail "$option needs ${missing[*]}; install them, or run this as root"
    command -v apt-get >/dev/null || fail "$option needs ${missing[*]}, and there is no apt-get to install them with"
    echo "installing ${missing[*]}"
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
  fi
}

# CUDA's compiler in a folder of its own, seen by these tests alone: beside the others jax would ask for a GPU's libraries at each start.
install_gpu_compiler() {
  local folder=.venv-gpu-aot lock=tests/requirements-gpu-aot.txt
  if ! cmp --silent "$lock" "$folder/lock.txt"; then
    echo "installing $lock into $folder (250 MB)"
    rm -rf "$folder"
    if ! .venv-test/bin/pip install --quiet --require-hashes --no-deps --target "$folder" --requirement "$lock"; then
      echo "error: $lock could not be installed" >&2
      exit 69 # unavailable; no test has failed
    fi
    cp "$lock" "$folder/lock.txt"
  fi
  export PYTHONPATH="$PWD/$folder${PYTHONPATH:+:$PYTHONPATH}"
}

chosen=${1:-}
case "$chosen" in
  --launch)
    install_programs --launch slurmctld:slurm-wlm munged:munge mpirun:openmpi-bin mpiexec.hydra:mpich
    ((EUID == 0)) || fail "--launch needs root: Slurm's daemons start the tasks of a job"
    set -- -m launch -n 0 tests/launch "${@:2}"
    ;;
  --browser)
    install_programs --browser chromium:chromium chromedriver:chromium-driver
    set -- -m browser -n 0 tests/browser "${@:2}"
    ;;
esac
make_environment .venv-test tests/requirements.txt
if [[ "$chosen" == --gpu-aot ]]; then
  install_gpu_compiler
  set -- -m gpu_aot tests/test_gpu.py tests/model/test_pallas_gpu.py "${@:2}"
fi

failed=()
check() {
  echo "$*"
  .venv-test/bin/python -m "$@" || failed+=("$*")
}
check ruff check .
check ruff format --check .
check mypy
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
fi
# Last, so that its summary is the last line. Two processes: compiling, most of the time, keeps one core busy.
check pytest -n 2 --dist worksteal "$@"
((${#failed[@]} == 0))
