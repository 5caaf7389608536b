# Sourced by the launchers, with their arguments: finds the environment, handles --demo and --demo_segments (the same
# for every launcher), trains and tests.

# relative paths in the environment are relative to the caller's folder, which the launcher has left
for _name in DATA_ROOT RUN_DIR VENV DEMO_DIR WEIGHTS_DIR; do
    [[ -z "${!_name:-}" || "${!_name}" == /* ]] || printf -v "$_name" '%s/%s' "$OLDPWD" "${!_name}"
done
# variables that are flags of train.py; only those that are set are passed, so presets and --resume keep their values
FLAG_VARIABLES=(MODEL:model PRESET:preset DEVICE:device SEED:seed EPOCHS:epochs BATCH_SIZE:batch_size
    LEARNING_RATE:learning_rate FEATURE_DIM:feature_dim TRANSFORMER_NHEAD:transformer_nhead ALPHA:auxiliary_weight
    BETA:lbd_audio_weight GAMMA:contrastive_weight)

source utils/shell/environment.sh

SIZE_FLAGS=() # of the demo; a run that goes on keeps its own values
declare -A STAGE_SIZES=() # more of them for each of m2sd's stages
DEMO=false
if [[ "${1:-}" =~ ^--demo(_segments)?$ ]]; then
    DEMO=true
    [[ "$1" == --demo ]] || DATASET=av_deepfake1m # its layout says which part of a clip is forged
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
        --features* | --video_features* | --audio_features*)
            if [[ "${MODEL:-}" =~ ^(td3mf|probe)$ ]]; then
                echo "error: $_flag is a variable of the launcher, which extracts the features first: set" \
                    "FEATURES for probe, VIDEO_FEATURES and AUDIO_FEATURES for td3mf" >&2
                exit 2
            fi
            ;;
        --fold | --fold=*)
            if [[ -n "${FOLDS:-}" ]]; then
                echo "error: give either FOLDS or --fold, not both" >&2
                exit 2
            fi
            ;;
    esac
done
[[ "$DEMO" == false ]] || source utils/shell/demo.sh

_explain_data() {
    cat >&2 <<TEXT
error: DATA_ROOT is not set: the launcher needs the prepared $DATASET data set.
  1. Get the data set from its authors (loaders/README.md says where and under which terms).
  2. Prepare it:  python -m preprocess.prepare --dataset $DATASET --source RAW_FOLDER --output PREPARED_FOLDER
  3. Train:       DATA_ROOT=PREPARED_FOLDER bash run_$DATASET.sh
Without a data set:  bash run_$DATASET.sh --demo (or --demo_segments: forgeries of parts of clips, located in time)
TEXT
    [[ "$DATASET" != ffpp ]] || echo "Before step 2, for its sound:  python -m preprocess.ffpp_audio --source RAW_FOLDER" >&2
    exit 2
}

_resumes() { # whether these flags ask train.py to go on with a run
    local flags=" ${*,,} "
    [[ "$flags" == *" --resume"* && ! "$flags" =~ " --resume"[\ =](false|0|no|off)" " ]]
}

_folds() { # FOLDS, e.g. "1-5" or "1 3", as numbers on lines
    local part
    for part in ${FOLDS//,/ }; do
        if [[ ! "$part" =~ ^[1-5](-[1-5])?$ ]]; then
            echo "error: FOLDS must be like 1-5 or \"1 3\" (there are five folds), got $FOLDS" >&2
            return 2
        fi
        seq "${part%-*}" "${part#*-}"
    done
}

# of methods that read features of frozen backbones: the flags that name them, and which are extracted first, with the
# published weights in WEIGHTS_DIR
FEATURE_FLAGS=() EXTRACTED=() _DEMO_SOUND=
if [[ "$DEMO" == true ]] && ! _resumes "${FLAGS[@]}"; then
    _DEMO_SOUND=audio_resnet18 # takes less time than eat
fi
case "${MODEL:-}" in
    probe)
        FEATURES="${FEATURES:-${_DEMO_SOUND:+marlin_small $_DEMO_SOUND}}"
        EXTRACTED=(${FEATURES:-marlin_small eat})
        [[ -z "${FEATURES:-}" ]] || FEATURE_FLAGS=(--features "${EXTRACTED[@]}")
        ;;
    td3mf)
        if [[ -n "${FEATURES:-}" ]]; then
            echo "error: FEATURES is for MODEL=probe: set VIDEO_FEATURES and AUDIO_FEATURES" >&2
            exit 2
        fi
        [[ " ${FLAGS[*]} " =~ " --only"[\ =]"video " ]] || AUDIO_FEATURES="${AUDIO_FEATURES:-$_DEMO_SOUND}"
        [[ -z "${VIDEO_FEATURES:-}" ]] || FEATURE_FLAGS+=(--video_features "$VIDEO_FEATURES")
        [[ -z "${AUDIO_FEATURES:-}" ]] || FEATURE_FLAGS+=(--audio_features "$AUDIO_FEATURES")
        [[ " ${FLAGS[*]} " =~ " --only"[\ =]"audio "|" --finetune"[\ =]"true " ]] || EXTRACTED+=("${VIDEO_FEATURES:-marlin_small}")
        [[ " ${FLAGS[*]} " =~ " --only"[\ =]"video " ]] || EXTRACTED+=("${AUDIO_FEATURES:-eat}")
        ;;
esac
if _resumes "${FLAGS[@]}" && [[ ${#FEATURE_FLAGS[@]} == 0 ]]; then
    EXTRACTED=() # the run knows which ones it reads, and they are there
fi
_extract_features() {
    local name flags weights=() launch=(python)
    [[ "$GPUS" == 1 ]] || launch=(python -m torch.distributed.run --standalone --nproc_per_node "$GPUS")
    if [[ -n "${WEIGHTS_DIR:-}" ]]; then
        weights=(--weights_dir "$WEIGHTS_DIR")
    elif [[ "$DEMO" == true ]]; then
        weights=(--random_weights)
    fi
    for name in "${EXTRACTED[@]}"; do
        echo "== features of $name" >&2
        flags=(--backbone "${name%.layer*}")
        [[ "$name" != *.layer* ]] || flags+=(--layer "${name##*.layer}")
        [[ "$name" == mfcc ]] || flags+=("${weights[@]}") # which has none
        "${launch[@]}" -m preprocess.extract_features --data_root "$DATA_ROOT" --device "${DEVICE:-auto}" "${flags[@]}"
    done
}

_train_stages() { # of m2sd, each in a folder of its own, from the checkpoints of those before
    local stage dir how common=("${SIZE_FLAGS[@]}") SIZE_FLAGS
    [[ "$STAGES" != all ]] || STAGES="teacher expert pretrain finetune"
    if [[ "$MODEL" != m2sd || -n "$PRESET$FOLDS" ]]; then
        echo "error: STAGES is for MODEL=m2sd, without PRESET and FOLDS" >&2
        return 2
    fi
    for stage in $STAGES; do
        dir="$RUN_DIR/$stage" how=(--preset "m2sd_$stage")
        read -ra SIZE_FLAGS <<<"${common[*]} ${STAGE_SIZES[$stage]:-}"
        [[ ! "$stage" =~ ^(pretrain|finetune)$ ]] ||
            how+=(--teacher "$RUN_DIR/teacher/best.pt" --expert "$RUN_DIR/expert/best.pt")
        [[ "$stage" != finetune ]] || how+=(--init_from "$RUN_DIR/pretrain/best.pt")
        [[ ! -f "$dir/last.pt" ]] || how+=(--resume)
        [[ "$ONLY_PRINTS" == true ]] || echo "== stage $stage -> $dir; to continue after a stop: RUN_DIR=$RUN_DIR" >&2
        if [[ "$stage" == finetune ]]; then
            _train_and_test_once "$dir" "${how[@]}"
        else
            _train_once "$dir" "${how[@]}"
        fi
    done
}

train_and_test() { # reads the launcher's variables
    [[ -z "$DATA_ROOT" || "$ONLY_PRINTS" == true ]] || _extract_features
    if [[ -n "${STAGES:-}" ]]; then
        _train_stages
        return
    fi
    if [[ -z "${FOLDS:-}" ]]; then
        _train_and_test_once "$RUN_DIR"
        return
    fi
    local fold folds dirs=() how
    folds=$(_folds)
    for fold in $folds; do
        local dir="$RUN_DIR/fold_$fold"
        dirs+=("$dir")
        if [[ -f "$dir/test_metrics.json" && "$ONLY_PRINTS" == false ]]; then
            echo "== fold $fold is already done: $dir" >&2
            continue
        fi
        how=(--fold "$fold/5")
        [[ -z "${PROTOCOL:-}" ]] || how+=(--protocol "$PROTOCOL")
        [[ ! -f "$dir/last.pt" ]] || how+=(--resume)
        [[ "$ONLY_PRINTS" == true ]] || echo "== fold $fold -> $dir; to continue after a stop: RUN_DIR=$RUN_DIR" >&2
        _train_and_test_once "$dir" "${how[@]}"
    done
    [[ "$ONLY_PRINTS" == true ]] || python test.py --matrix "${dirs[@]}" --output_dir "$RUN_DIR/folds"
}

_set_launch() { # how train.py and test.py are started, in the caller's `launch`
    launch=(python)
    if [[ "$GPUS" != 1 && "$ONLY_PRINTS" == false ]]; then
        launch=(python -m torch.distributed.run --standalone --nproc_per_node "$GPUS")
    fi
}

_train_and_test_once() { # RUN_DIR [flags]
    local launch
    _train_once "$@"
    _set_launch
    if [[ "$ONLY_PRINTS" == false ]]; then
        "${launch[@]}" test.py --checkpoint "$1/best.pt" --dataset "$DATASET" --data_root "$DATA_ROOT" \
            --device "${DEVICE:-auto}"
    fi
}

_train_once() { # RUN_DIR [flags]
    local run_dir=$1 data_flags=() flags=() sizes=("${SIZE_FLAGS[@]}") launch pair name
    shift
    ! _resumes "$@" "${FLAGS[@]}" || sizes=()
    _set_launch
    [[ -n "$DATA_ROOT" || "$ONLY_PRINTS" == true ]] || _explain_data
    [[ -z "$DATA_ROOT" ]] || data_flags=(--data_root "$DATA_ROOT")
    for pair in "${FLAG_VARIABLES[@]}"; do
        name=${pair%:*}
        [[ -z "${!name}" ]] || flags+=("--${pair#*:}" "${!name}")
    done
    "${launch[@]}" train.py --dataset "$DATASET" "${data_flags[@]}" --run_dir "$run_dir" \
        "${sizes[@]}" "${flags[@]}" "${FEATURE_FLAGS[@]}" "$@" "${FLAGS[@]}"
}
