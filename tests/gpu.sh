#!/usr/bin/env bash
# What a new GPU is asked first, in under 8 minutes and without a network; --device cpu: a rehearsal with tiny sizes.
#   bash tests/gpu.sh OUTPUT_FOLDER [--device cpu]       writes gpu.json and gpu.md there
set -euo pipefail
exec python3 "$(dirname "${BASH_SOURCE[0]}")/gpu/__main__.py" "$@" # by the active environment, whatever it lacks
