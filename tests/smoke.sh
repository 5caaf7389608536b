#!/usr/bin/env bash
# A short run with the second set of requirements, requirements-current.txt (NumPy 2, OpenCV 5, no mediapipe):
# types, make a demo set, prepare it, train an epoch, test, judge a video, parity with published code.
#   bash tests/smoke.sh [--install]     --install: only the environment, VENV or .venv/current
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export REQUIREMENTS=requirements-current.txt VENV="${VENV:-.venv/current}" OMP_NUM_THREADS=1
source utils/shell/environment.sh
python -m pip install --quiet --disable-pip-version-check $(grep -E '^(mypy|pytest)==' requirements-dev.txt)
[[ "${1:-}" != --install ]] || exit 0

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m mypy # NumPy 2 has other annotations
python -m preprocess.demo --output "$folder/raw" --num_identities 4 --duration_s 1 --frame_size 240
python -m preprocess.prepare --dataset fakeavceleb --source "$folder/raw" --output "$folder/prepared" --min_face_fraction 0.5
python -m preprocess.verify --data_root "$folder/prepared" --deep
sizes=(--image_size 32 --video_channels 4 8 --audio_channels 4 8 8 --feature_dim 16 --feedforward_dim 16)
sizes+=(--classifier_hidden_dim 16 --window_s 0.6 --windows_per_clip 1 --batch_size 4 --num_workers 1 --device cpu)
python train.py --dataset fakeavceleb --data_root "$folder/prepared" --run_dir "$folder/run" --epochs 1 "${sizes[@]}" \
    --val_fraction 0.25 --test_fraction 0.25
python test.py --checkpoint "$folder/run/best.pt" --dataset fakeavceleb --data_root "$folder/prepared" \
    --output_dir "$folder/test" --device cpu >/dev/null
video=$(find "$folder/raw" -name '*.mp4' | sort | head -n 1)
python test.py --checkpoint "$folder/run/best.pt" --video "$video" --output_dir "$folder/verdict" --device cpu >/dev/null
grep -q '"landmark_backend": "mesh"' "$(find "$folder/prepared" -name clip.json | head -n 1)"
[[ -s "$folder/test/report.html" && -s "$folder/verdict/verdict.json" ]]
python -m pytest -q -p no:cacheprovider tests/parity/test_parity.py tests/parity/test_mrdf.py
