# Sourced by the launchers, with their arguments: environment, --demo, and what all of them do.

# paths in the environment are the caller's; the launcher has changed to the project's folder
for _name in DATA_ROOT RUN_DIR VENV DEMO_DIR; do
    [[ -z "${!_name:-}" || "${!_name}" == /* ]] || printf -v "$_name" '%s/%s' "$OLDPWD" "${!_name}"
done

source utils/environment.sh

SIZE_FLAGS=()
DEMO=false
if [[ "${1:-}" == --demo ]]; then
    DEMO=true
    shift
fi
FLAGS=("$@")
ONLY_PRINTS=false
for _flag in "${FLAGS[@]}"; do
    case "$_flag" in
        --help | -h | --print_config | --print_config=*) ONLY_PRINTS=true ;;
        --dataset* | --data_root* | --run_dir* | --device* | --config*)
            echo "error: $_flag is a variable of the launcher: set DATA_ROOT, RUN_DIR or DEVICE, or call train.py" >&2
            exit 2
            ;;
    esac
done
[[ "$DEMO" == false ]] || source utils/demo.sh

_explain_data() {
    cat >&2 <<TEXT
error: DATA_ROOT is not set: the launcher needs the prepared $DATASET data set.
  1. Get the data set from its authors (README.md, "Data sets", says where and under which terms).
  2. Prepare it:  python -m preprocess.prepare --dataset $DATASET --source RAW_FOLDER --output PREPARED_FOLDER
  3. Train:       DATA_ROOT=PREPARED_FOLDER bash run_$DATASET.sh
Without a data set:  bash run_$DATASET.sh --demo
TEXT
    [[ "$DATASET" != ffpp ]] || echo "Before step 2, for its sound:  python -m preprocess.ffpp_audio --source RAW_FOLDER" >&2
    exit 2
}

train_and_test() { # reads the launcher's variables
    local data_flags=() launch=(python)
    if [[ "$GPUS" != 1 && "$ONLY_PRINTS" == false ]]; then
        launch=(python -m torch.distributed.run --standalone --nproc_per_node "$GPUS")
    fi
    [[ -n "$DATA_ROOT" || "$ONLY_PRINTS" == true ]] || _explain_data
    [[ -z "$DATA_ROOT" ]] || data_flags=(--data_root "$DATA_ROOT")
    "${launch[@]}" train.py --dataset "$DATASET" "${data_flags[@]}" --run_dir "$RUN_DIR" --model "$MODEL" \
        --preset "$PRESET" --device "$DEVICE" --epochs "$EPOCHS" --batch_size "$BATCH_SIZE" \
        --learning_rate "$LEARNING_RATE" --seed "$SEED" --feature_dim "$FEATURE_DIM" \
        --transformer_nhead "$TRANSFORMER_NHEAD" --auxiliary_weight "$ALPHA" --lbd_audio_weight "$BETA" \
        --contrastive_weight "$GAMMA" "${SIZE_FLAGS[@]}" "${FLAGS[@]}"
    if [[ "$ONLY_PRINTS" == false ]]; then
        "${launch[@]}" test.py --checkpoint "$RUN_DIR/best.pt" --dataset "$DATASET" --data_root "$DATA_ROOT" --device "$DEVICE"
    fi
}
