# What follows an exit code of flax_s2s, where a place starts nothing again by itself. Sourced by mpirun.sh and tpu-vm.sh.
# shellcheck shell=bash

failures=0

# restart_or_exit CODE SECS: returns when it is to be started again: at once after 75 (stopped and saved), after a failure when SECS,
# doubled with each, have passed. 0 is done and 2 the user's mistake; $stopped says that a signal asked for the end.
restart_or_exit() {
  local code=$1 pause
  if [[ -n "${stopped:-}" ]] || ((code == 0 || code == 2)); then
    exit "$code"
  fi
  if ((code == 75)); then
    return
  fi
  if ((++failures > 3)); then
    echo "giving up after $failures failures, the last with exit code $code" >&2
    exit "$code"
  fi
  pause=$(($2 * 2 ** failures))
  echo "exit code $code; starting again in $pause s" >&2
  sleep "$pause" & # so that a signal's trap need not wait for it
  wait $!
  if [[ -n "${stopped:-}" ]]; then
    exit "$code"
  fi
}
