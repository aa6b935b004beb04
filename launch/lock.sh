#!/usr/bin/env bash
# Makes the locks from pyproject.toml: requirements.txt, its twins for CUDA and TPU, and the two for the tests. Each
# direct dependency gets its reason from pyproject.toml's comments. Needs uv (pip install uv) and Python on the PATH.
# Versions already locked are kept where they still fit; arguments go to uv, such as --upgrade:
#
#   bash launch/lock.sh --upgrade
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The last release for Python 3.11, so that every lock is one for Python 3.11 and 3.12.
jax=jax==0.10.2

# lock FILE TITLE CONSTRAINTS EXTRA [UV OPTION...]
lock() {
  local extra=$4
  resolve "$1" "$3" pyproject.toml --group build ${extra:+--extra "$extra"} "${@:5}"
  annotate "$1" "$2" dependencies build "$extra"
}

# resolve FILE CONSTRAINTS UV_ARGUMENT...: --fork-strategy fewest takes one version of a package for both Pythons.
resolve() {
  echo "$1"
  uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-header \
    --constraints "$2" --output-file "$1" "${@:3}" >/dev/null
}

# annotate FILE TITLE SECTION...: puts the title and the reasons of these sections into the lock, and takes out the notes on the constraints.
annotate() {
  python3 - "$@" <<'END'
import re
import sys
from pathlib import Path

file, title, *sections = sys.argv[1:]
reasons, section, comment = {}, "", []
for line in Path("pyproject.toml").read_text(encoding="utf-8").splitlines():
    line = line.strip()
    requirement = re.match(r'"([\w.-]+)', line)
    if line.endswith("= ["):
        section, comment = line.split()[0], []
    elif line.startswith("# "):
        comment.append(line)
    elif requirement and comment and section in sections:
        name = re.sub(r"[-_.]+", "-", requirement[1]).lower()
        reasons.setdefault(name, []).extend(comment)
        comment = []

out = [f"# {title}", "# Made by `bash launch/lock.sh` from pyproject.toml; not edited by hand."]
for line in Path(file).read_text(encoding="utf-8").splitlines():
    if re.match(r"\s+#\s+-c ", line):
        continue
    pinned = re.match(r"([\w.-]+)==", line)
    if pinned and pinned[1] in reasons:
        out += ["", *reasons.pop(pinned[1])]
    out.append(line)
if reasons:
    sys.exit(f"{file} lacks {', '.join(reasons)}")
Path(file).write_text("\n".join(out) + "\n", encoding="utf-8")
END
}

lock requirements.txt "Lock for the CPU, Python 3.11 and 3.12: pip install --require-hashes -r requirements.txt" <(echo "$jax") "" "$@"
lock launch/requirements-cuda.txt "Lock for NVIDIA GPUs: the versions of requirements.txt, and CUDA 13." requirements.txt cuda
lock launch/requirements-tpu.txt "Lock for TPUs: the versions of requirements.txt, and libtpu." requirements.txt tpu
lock tests/requirements.txt "Lock for the tests: the versions of requirements.txt, and the test tools." requirements.txt test

# CUDA's compiler alone, without what it depends on.
file=tests/requirements-gpu-aot.txt
resolve "$file" launch/requirements-cuda.txt --group gpu-aot --no-deps "$@"
annotate "$file" "Lock for the tests that compile for NVIDIA GPUs: the versions of requirements-cuda.txt." gpu-aot
