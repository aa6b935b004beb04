#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU VM, and starts them again after preemption and failures.
#
#   bash launch/tpu-vm.sh NAME ZONE -- train configs/gnmt_wmt16_en_de.py --run-dir gs://BUCKET/runs/gnmt
#
# Each host has this repository at ~/flax_s2s with its environment in .venv (launch/README.md says how). FOLDER names another
# place. It calls itself on every host, as `tpu-vm.sh --host VERB ...`: there it asks the metadata server which host it is.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/restart.sh"

metadata() {
  curl --silent --fail --max-time 10 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

host() {
  # As in "uid:uid:10.164.0.4,uid:uid:10.164.0.5": the last part is the address.
  if [[ -z "${TPU_WORKER_ID:-}" || -z "${TPU_WORKER_HOSTNAMES:-}" ]]; then
    local endpoints
    if ! TPU_WORKER_ID=$(metadata agent-worker-number) || ! endpoints=$(metadata worker-network-endpoints); then
      echo "error: the metadata server does not say which host this is; run this on a TPU VM, or set TPU_WORKER_ID and TPU_WORKER_HOSTNAMES" >&2
      exit 2
    fi
    TPU_WORKER_HOSTNAMES=$(tr ',' '\n' <<<"$endpoints" | sed 's/.*://' | paste --serial --delimiters=,)
    export TPU_WORKER_ID TPU_WORKER_HOSTNAMES
  fi
  exec "${PYTHON:-.venv/bin/python}" -m flax_s2s "$@"
}

if [[ "${1:-}" == --host ]]; then
  shift
  host "$@"
fi
if (($# < 4)) || [[ "$3" != -- ]]; then
  echo "error: usage: bash launch/tpu-vm.sh NAME ZONE -- VERB ..., for example: bash launch/tpu-vm.sh my-tpu us-west4-a -- train configs/quickstart.py" >&2
  exit 2
fi
name=$1 zone=$2
shift 3
if ! command -v gcloud >/dev/null; then
  echo "error: there is no gcloud; install the Google Cloud CLI" >&2
  exit 2
fi
command="cd $(printf %q "${FOLDER:-flax_s2s}") && exec bash launch/tpu-vm.sh --host $(printf '%q ' "$@")"

while true; do
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$command" # ends with the exit code of a host
  restart_or_exit $? 10
done
