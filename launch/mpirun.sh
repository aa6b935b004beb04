#!/usr/bin/env bash
# Trains with the processes of Open MPI's mpirun, and starts them again after preemption and failures.
#
#   bash launch/mpirun.sh -np 2 -- train configs/debug.py --run-dir runs/debug
#   bash launch/mpirun.sh -np 2 -H node1,node2 -x JAX_COORDINATOR_ADDRESS=node1:8476 -- train configs/gnmt_wmt16_en_de.py --run-dir /shared/runs/gnmt
#
# In front of -- stand options of mpirun, behind it the arguments of flax_s2s. On one machine the processes meet at its
# loopback; on several, at the address that Open MPI 4 gives (mpirun's machine must then be the one of process 0), or the one
# that is said. PYTHON names another Python than .venv/bin/python. Ctrl-C and SIGTERM save and end with 75.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/restart.sh"

options=()
while (($#)) && [[ "$1" != -- ]]; do
  options+=("$1")
  shift
done
if (($# < 2)); then
  echo "error: what to run is missing; give it after --, for example: bash launch/mpirun.sh -np 2 -- train configs/debug.py" >&2
  exit 2
fi
shift

python=${PYTHON:-.venv/bin/python}
for program in mpirun "$python"; do
  if ! command -v "$program" >/dev/null; then
    echo "error: there is no $program; install Open MPI (Debian, Ubuntu: openmpi-bin), or name the Python: PYTHON=/path/to/python bash launch/mpirun.sh ..." >&2
    exit 2
  fi
done

# Each process uses many threads: not one core each. What is set of these variables goes to other machines too.
options+=(--bind-to none --tag-output)
for name in $(compgen -e | grep -E '^(JAX|FLAX_S2S|XLA|NCCL)_'); do
  options+=(-x "$name")
done

# mpirun passes SIGUSR1 on to the processes, and its exit code is theirs; after SIGTERM it would be 1, saved or not.
stopped=
stop() {
  stopped=yes
  [[ -n "${pid:-}" ]] && kill -USR1 "$pid" 2>/dev/null
}
trap stop TERM INT HUP

while true; do
  set -m # a group of its own: Ctrl-C in the terminal comes through the trap alone
  mpirun "${options[@]}" "$python" -m flax_s2s "$@" </dev/null &
  pid=$!
  set +m
  wait "$pid"
  code=$?
  while ((code > 128)) && kill -0 "$pid" 2>/dev/null; do # a signal to this script has ended the wait, not mpirun
    wait "$pid"
    code=$?
  done
  restart_or_exit "$code" 1
done
