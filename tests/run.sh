#!/usr/bin/env bash
# The test command: lint, types and all tests, on two cores and without a network in about a quarter of an hour.
#   bash tests/run.sh [any pytest flag]       e.g. -n 0 -k splits: in one process, what matches
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
further_requirements=(requirements-dev.txt)
source utils/shell/environment.sh

python -m ruff check .
python -m ruff format --check .
python -m mypy & # takes a minute on one core, while the first tests are collected
types=$!
# four processes with one thread each, since they also wait (for disks, and for each other); files keep their fixtures to
# themselves, and the slow ones, end to end, come first, so that no process works alone at the end
export OMP_NUM_THREADS=1
export THP_MEM_ALLOC_ENABLE=0 # tests' tensors are small: to fill a page of 2 MB for each took a fifth of the time
# a GPU's tests are rehearsed on the CPU where there is none, so that they keep up with the code
export GPU_REHEARSAL_DEVICE="${GPU_REHEARSAL_DEVICE-$([[ -e /dev/nvidia0 ]] || echo cpu)}"
failed=0
python -m pytest -n 4 --dist loadfile --no-loadscope-reorder "$@" || failed=$?
wait "$types" # its exit status, too
exit "$failed"
