#!/usr/bin/env bash
# benchmarks/gpu.py on a machine that has CUDA, Python 3.12, torch, transformers and scikit-learn, and no network.
#
#   python benchmarks/accelerator/wheels.py                  before, where there is a package index: fills .wheels/
#   bash benchmarks/accelerator/run.sh --output gpu.json     there, in a copy of this checkout with .wheels/
#
# Nothing of the machine's own environment is changed: the wheels go into a folder that is removed afterwards. (A virtual
# environment would not do where the machine's torch is in one itself: it sees the packages of the system alone.)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
began=$SECONDS
"$python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-compile --no-warn-script-location \
  --target "$site" .wheels/*.whl
echo "wheels installed in $((SECONDS - began)) s"
PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 "$python" benchmarks/gpu.py "$@"
