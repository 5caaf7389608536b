#!/usr/bin/env bash
# Beyond-Masking (LBD + MTIA) on FakeAVCeleb: train, then test the best checkpoint.
#   DATA_ROOT=prepared/fakeavceleb bash run_fakeavceleb.sh [any train.py flag]     or: bash run_fakeavceleb.sh --demo
#   bash run_fakeavceleb.sh --demo_segments   forgeries of 0.3 to 1 s in clips of 3 s, located with --frame_head
#   MODEL=mrdf PRESET=paper FOLDS=1-5 RUN_DIR=saved_models/X DATA_ROOT=... bash run_fakeavceleb.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

DATASET=fakeavceleb
source utils/shell/launch.sh "$@"

DATA_ROOT="${DATA_ROOT:-}" # the prepared FakeAVCeleb folder
RUN_DIR="${RUN_DIR:-saved_models/fakeavceleb_$(date +%Y%m%d_%H%M%S)}"
FOLDS="${FOLDS:-}" # 1-5: one run per fold of persons, and their mean; finished folds in RUN_DIR are kept
STAGES="${STAGES:-}" # of MODEL=m2sd: all, or some of "teacher expert pretrain finetune"
GPUS="${GPUS:-1}"  # processes on this machine, one per GPU (DEVICE=cpu: one per CPU)
# Flags of train.py. Empty = not passed: the preset's value, else train.py's default; "corrected" has those below.
MODEL="${MODEL:-}"                         # --model: beyond_masking
PRESET="${PRESET:-}"                       # --preset: corrected; released = the published code to the letter
DEVICE="${DEVICE:-}"                       # --device: auto
SEED="${SEED:-}"                           # --seed: 42
EPOCHS="${EPOCHS:-}"                       # --epochs: 30
BATCH_SIZE="${BATCH_SIZE:-}"               # --batch_size: 16; released: 4
LEARNING_RATE="${LEARNING_RATE:-}"         # --learning_rate: 1e-4
FEATURE_DIM="${FEATURE_DIM:-}"             # --feature_dim: 256
TRANSFORMER_NHEAD="${TRANSFORMER_NHEAD:-}" # --transformer_nhead: 4
ALPHA="${ALPHA:-}"                         # --auxiliary_weight: 0.8, share of LBD and contrastive terms against BCE
BETA="${BETA:-}"                           # --lbd_audio_weight: 0.5, weight of the audio student's distillation
GAMMA="${GAMMA:-}"                         # --contrastive_weight: 0.5, weight of the contrastive term
[[ "$MODEL" != mrdf ]] || PROTOCOL="${PROTOCOL:-mrdf5}" # of the folds: the 2,000 clips of its paper

train_and_test
