#!/usr/bin/env bash
# Measure all that this project wants to know of one GPU of 80 GB, in at most 9 minutes and without a network: README.md.
#
#   bash benchmarks/gpu.sh --pack       where there is a network: gather what is carried in benchmarks/carried
#   bash benchmarks/gpu.sh              on the machine with the GPU: writes gpu.json and gpu.log
#   bash benchmarks/gpu.sh --rehearse   the same with tiny sizes, anywhere, in under a minute
#   python benchmarks/gpu_results.py gpu.json   fold what was measured into the tables of this project
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

# Packages that the machine lacks, as wheels; none is needed but for the parts that say so.
if compgen -G 'benchmarks/carried/*.whl' >/dev/null && [[ " $* " != *" --pack "* ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" benchmarks/carried/*.whl ||
    echo "the carried wheels can't be installed here: the parts that use them say so" >&2
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTORCH_NVML_BASED_CUDA_CHECK=1 # so that to ask for a GPU does not touch it, for the sake of forked processes
"$python" -m benchmarks.gpu "$@"
