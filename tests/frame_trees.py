"""Small trees of folders of frames: the lists of Exposing the Deception, and DeepfakeBench's layout."""

import json
from pathlib import Path

import cv2
import numpy as np

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
LABEL_NAMES = dict(zip(METHODS, ("FF-DF", "FF-F2F", "FF-FS", "FF-NT"), strict=True))
PAIRS = {"train": [("000", "003"), ("010", "011")], "val": [("020", "021")], "test": [("030", "031")]}
AUTHOR = "/home/author/datasets/FF++"  # before the paths of five of the six published lists


def draw_frames(
    folder: Path, count: int, *, fake: bool, seed: int, size: int = 40, suffix: str = ".png"
) -> None:
    """Frames of noise that a small model can tell apart: a fake has a checkerboard in it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        frame = rng.integers(90, 150, (size, size, 3), np.uint8)
        frame[:, :, 0] = number  # blue, as cv2 orders colours
        if fake:
            frame[::2, ::2] = 255
        cv2.imwrite(str(folder / f"{number}{suffix}"), frame)


def sequences_of(part: str):
    """(folder below the data set, name, is fake) of a part of FF++."""
    for pair in PAIRS[part]:
        for target, source in (pair, pair[::-1]):
            yield "original_sequences/youtube/c23", target, False
            for method in METHODS:
                yield f"manipulated_sequences/{method}/c23", f"{target}_{source}", True


def build_frame_lists(root: Path, *, frames: int = 6) -> dict[str, int]:
    """FF++ as the published lists name it, with their mixed roots and corrupted lines.

    Returns the number of lines of each list.
    """
    counts = {}
    for seed, part in enumerate(PAIRS):
        lines: dict[str, list[str]] = {"real": [], "fake": []}
        for number, (folder, name, fake) in enumerate(sequences_of(part)):
            path = f"{folder}/{name}.mp4"
            count = frames + number % 3
            draw_frames(root / path, count, fake=fake, seed=100 * seed + number)
            listed = f"{AUTHOR}/{path}"
            if part == "test" and fake:
                listed = f"FF++/{path}".replace("manipulated_sequences/FaceSwap", "manipulated_sequenceswap")
            lines["fake" if fake else "real"].append(f"{int(fake)}, {listed} ,{count}")
        for kind, texts in lines.items():
            (root / f"{part}_{kind}.txt").write_text("\n".join(texts) + "\n")
            counts[f"{part}_{kind}.txt"] = len(texts)
    return counts


def build_deepfakebench(root: Path, *, frames: int = 5, empty_val: bool = True) -> Path:
    """DeepfakeBench with FaceForensics++.json, frames in datasets/rgb, and paths of Windows."""
    content: dict = {}
    for seed, part in enumerate(PAIRS):
        for number, (folder, name, fake) in enumerate(sequences_of(part)):
            place = Path("FaceForensics++", folder, "frames", name)
            draw_frames(
                root / "datasets/rgb" / place, frames + 7, fake=fake, seed=100 * seed + number, size=48
            )
            label = LABEL_NAMES[folder.split("/")[1]] if fake else "FF-real"
            where = "train" if part == "val" and empty_val else part
            parts = content.setdefault(label, {"train": {"c23": {}}, "val": {"c23": {}}, "test": {"c23": {}}})
            names = [str(place / f"{k}.png").replace("/", "\\") for k in range(frames + 6, -1, -1)]
            parts[where]["c23"][name] = {"label": label, "frames": names}
    path = root / "preprocessing/dataset_json/FaceForensics++.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"FaceForensics++": content}))
    return path


def move_into_store(root: Path, *, style: str) -> None:
    """Move the frames of `build_deepfakebench` into an LMDB store, with keys of "windows" or "linux"."""
    import lmdb

    rgb = root / "datasets/rgb/FaceForensics++"
    (root / "datasets/lmdb").mkdir()
    store = lmdb.open(str(root / "datasets/lmdb/FaceForensics++_lmdb"), map_size=1 << 26)
    with store.begin(write=True) as transaction:
        for path in sorted(rgb.rglob("*.png")):
            below = path.relative_to(rgb).as_posix()
            key = f"FaceForensics++\\{below.replace('/', chr(92)) if style == 'windows' else below}"
            transaction.put(key.encode(), path.read_bytes())
            path.unlink()
    store.close()
    for folder in sorted(rgb.rglob("*"), reverse=True):
        folder.rmdir()
