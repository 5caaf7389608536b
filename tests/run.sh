#!/usr/bin/env bash
# The test command: lint and all tests, on two cores and without a network in under ten minutes.
#   bash tests/run.sh [any pytest flag]       e.g. -n 0 -k splits: in one process, what matches
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source utils/environment.sh

python -m ruff check .
python -m ruff format --check .
# two processes with one thread each: most tests are small, and files keep their fixtures to themselves; the slow ones,
# end to end, come first, so that neither process waits for the other at the end
export OMP_NUM_THREADS=1
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
