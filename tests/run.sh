#!/usr/bin/env bash
# The test command: makes .venv-test from tests/requirements.txt, then lint, format, types and tests. All of them run,
# whatever fails; the exit status is 0 only if nothing did. Arguments go to pytest:
#
#   bash tests/run.sh -k beam
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

make_environment .venv-test tests/requirements.txt

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
