#!/usr/bin/env bash
# The test command: lint and all tests, on two cores and without a network in under ten minutes.
#   bash tests/run.sh [any pytest flag]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source utils/environment.sh

python -m ruff check .
python -m ruff format --check .
exec python -m pytest "$@"
