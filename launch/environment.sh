# Makes a Python environment from one of the locks. Sourced by launch/quickstart.sh and tests/run.sh, from the
# repository's root; needs bash, Python 3.11 or 3.12 with venv, and an index to install from.
# shellcheck shell=bash

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# A candidate may exist and still fail (a shim of a version manager), so each is tried. It needs venv and a pip to put
# into the environment: its own (ensurepip, which Debian packs apart, as python3.11-venv), or the one it runs.
_suitable() {
  "$1" -c 'import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 &&
    { "$1" -c 'import ensurepip' || "$1" -m pip --version; } >/dev/null 2>&1
}

_make_venv() {
  if "$1" -c 'import ensurepip' >/dev/null 2>&1; then
    "$1" -m venv "$2"
  else
    "$1" -m venv --without-pip "$2" && "$1" -m pip --python "$2/bin/python" install pip
  fi
}

# Prints the Python to build with: $PYTHON if set, else the first suitable one on the PATH.
find_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    _suitable "$PYTHON" || fail "PYTHON=$PYTHON must be Python 3.11 or 3.12 with venv and pip"
    echo "$PYTHON"
    return
  fi
  for candidate in python3.12 python3.11 python3 python; do
    if _suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "found no Python 3.11 or 3.12 with venv and pip; install one (Debian, Ubuntu: python3.11 and python3.11-venv) or name it: PYTHON=/path/to/python bash ..."
}

_sha256() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
}

# make_environment FOLDER LOCK: installs the lock and this package (editable) into FOLDER, once. What is fetched is checked
# against the lock's hashes, build tools included (but not pip, where a Python has none to put into an environment): setuptools
# comes from the lock first, then nothing is built in isolation. The stamp is written last, so an interrupted install is made
# anew by the next run.
make_environment() {
  local folder=$1 lock=$2 python stamp log start=$SECONDS
  stamp=$({ pwd -P; cat "$lock" pyproject.toml; } | _sha256)
  if [[ -f "$folder/stamp" && "$(cat "$folder/stamp")" == "$stamp" ]] && "$folder/bin/python" -c '' 2>/dev/null; then
    echo "environment: $folder is up to date with $lock"
    return
  fi
  if [[ -e "$folder" && ! -f "$folder/stamp" ]]; then
    fail "$folder exists and was not made by this script; move it away and run this again"
  fi
  python=$(find_python)
  echo "environment: installing $lock into $folder with $("$python" --version) (a minute or more, depending on the network)"
  rm -rf "$folder"
  mkdir "$folder"
  echo incomplete >"$folder/stamp"
  log=$folder/install.log
  {
    _make_venv "$python" "$folder" &&
      awk '/^setuptools==/ { on = 1 } on { print; if (!/\\$/) exit }' "$lock" >"$folder/setuptools.txt" &&
      "$folder/bin/pip" install --require-hashes --no-deps -r "$folder/setuptools.txt" &&
      "$folder/bin/pip" install --require-hashes --no-build-isolation --use-pep517 -r "$lock" &&
      "$folder/bin/pip" install --no-deps --no-build-isolation --editable .
  } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    fail "the install failed (all of it: $log); run this again to repeat it"
  }
  echo "$stamp" >"$folder/stamp"
  echo "environment: installed in $((SECONDS - start)) s"
}
