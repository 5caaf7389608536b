#!/usr/bin/env bash
# Beyond-Masking (LBD + MTIA) on KoDF: train, then test the best checkpoint.
#   DATA_ROOT=prepared/kodf bash run_kodf.sh [any train.py flag]     or: bash run_kodf.sh --demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

DATASET=kodf
source utils/shell/launch.sh "$@"

DATA_ROOT="${DATA_ROOT:-}"                  # the prepared KoDF folder
RUN_DIR="${RUN_DIR:-saved_models/kodf_$(date +%Y%m%d_%H%M%S)}"
MODEL="${MODEL:-beyond_masking}"
PRESET="${PRESET:-corrected}"               # released = the published code to the letter
DEVICE="${DEVICE:-auto}"
FOLDS="${FOLDS:-}"                          # 1-5: a run for each of five folds of persons, and their mean (goes on in RUN_DIR)
GPUS="${GPUS:-1}"                           # processes on this machine, one for each GPU (DEVICE=cpu: for each CPU)
EPOCHS="${EPOCHS:-30}"
BATCH_SIZE="${BATCH_SIZE:-4}"
LEARNING_RATE="${LEARNING_RATE:-1e-4}"
SEED="${SEED:-42}"
FEATURE_DIM="${FEATURE_DIM:-256}"
TRANSFORMER_NHEAD="${TRANSFORMER_NHEAD:-4}"
ALPHA="${ALPHA:-0.8}"                       # share of the auxiliary terms (LBD, contrastive) against BCE
BETA="${BETA:-0.5}"                         # weight of the audio student's distillation
GAMMA="${GAMMA:-0.5}"                       # weight of the contrastive term

train_and_test
