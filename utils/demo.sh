# Sourced by the launchers for --demo: DATASET's generated demo set, raw -> prepared, and a model small enough for two
# CPU cores. It is a test of the software, not of the science.

DEMO_DIR="${DEMO_DIR:-demo_data/$DATASET}"
DEMO_WORKERS="${DEMO_WORKERS:-$(nproc)}"

echo "== demo set -> $DEMO_DIR/raw" >&2
python -m preprocess.demo --output "$DEMO_DIR/raw" --num_workers "$DEMO_WORKERS"
echo "== preparing -> $DEMO_DIR/prepared" >&2
python -m preprocess.prepare --dataset "$DATASET" --source "$DEMO_DIR/raw" --output "$DEMO_DIR/prepared" --num_workers "$DEMO_WORKERS"
python -m preprocess.verify --data_root "$DEMO_DIR/prepared" --num_workers "$DEMO_WORKERS"

DATA_ROOT="$DEMO_DIR/prepared"
EPOCHS="${EPOCHS:-12}"
BATCH_SIZE="${BATCH_SIZE:-8}"
LEARNING_RATE="${LEARNING_RATE:-1e-3}"
FEATURE_DIM="${FEATURE_DIM:-64}"
ALPHA="${ALPHA:-0.5}"
SIZE_FLAGS=(--image_size 112 --video_channels 16 32 64 --audio_channels 32 48 64 --feedforward_dim 128
    --classifier_hidden_dim 64 --stream_layers 1 --dropout 0.1 --window_s 1.0 --val_fraction 0.2 --test_fraction 0.25)
