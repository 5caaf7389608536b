# Sourced by the launchers, with their arguments: environment, --demo, and what all of them do.

source utils/environment.sh

SIZE_FLAGS=()
if [[ "${1:-}" == --demo ]]; then
    shift
    source utils/demo.sh
fi
FLAGS=("$@")

_explain_data() {
    cat >&2 <<TEXT
error: DATA_ROOT is not set: the launcher needs the prepared $DATASET data set.
  1. Get the data set from its authors (README.md, "Data sets", says where and under which terms).
  2. Prepare it:  python -m preprocess.prepare --dataset $DATASET --source RAW_FOLDER --output PREPARED_FOLDER
  3. Train:       DATA_ROOT=PREPARED_FOLDER bash run_$DATASET.sh
Without a data set:  bash run_$DATASET.sh --demo
TEXT
    exit 2
}

train_and_test() { # reads the launcher's variables
    local only_prints=false flag
    for flag in "${FLAGS[@]}"; do
        [[ "$flag" == --help || "$flag" == -h || "$flag" == --print_config ]] && only_prints=true
    done
    [[ -n "$DATA_ROOT" || "$only_prints" == true ]] || _explain_data
    python train.py --dataset "$DATASET" --data_root "$DATA_ROOT" --run_dir "$RUN_DIR" --model "$MODEL" \
        --preset "$PRESET" --device "$DEVICE" --epochs "$EPOCHS" --batch_size "$BATCH_SIZE" \
        --learning_rate "$LEARNING_RATE" --seed "$SEED" --feature_dim "$FEATURE_DIM" \
        --transformer_nhead "$TRANSFORMER_NHEAD" --auxiliary_weight "$ALPHA" --lbd_audio_weight "$BETA" \
        --contrastive_weight "$GAMMA" "${SIZE_FLAGS[@]}" "${FLAGS[@]}"
    if [[ "$only_prints" == false ]]; then
        python test.py --checkpoint "$RUN_DIR/best.pt" --dataset "$DATASET" --data_root "$DATA_ROOT" --device "$DEVICE"
    fi
}
