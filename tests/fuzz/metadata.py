"""Metadata: every data set's own tables and names, and the tables that the project's commands exchange."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.frame_trees import AUTHOR, build_deepfakebench, build_frame_lists
from tests.fuzz.cases import PROCESSED, BrokenPromiseError, Recipe
from tests.fuzz.mutate import NASTY_TEXTS, damage, mutate_json, mutate_table, nasty_text, pick
from tests.trees import TREES

# data sets whose names say everything, and those whose folder names matter, too
NAMED = ("deepfaketimit", "ravdess", "celebdf", "manifest", "kodf", "ffpp", "deepspeak", "fakeavceleb")
OTHERS = ("split", "exclusions", "folds", "predictions", "results", "curves", "audit")  # files of our own
FRAMES = ("frame_lists", "deepfakebench")  # folders of frames
PREFIXES = (f"{AUTHOR}=", "FF++/manipulated_sequenceswap=manipulated_sequences/FaceSwap")
TARGET = "target.txt"  # says what a case is about


def build(base: Path) -> None:
    """A prepared tree with empty clip files of each data set, and a sound file of each of our own."""
    from tests.trees.media import EmptyFiles
    from tests.trees.prepared import prepare_empty

    for name, write in TREES.items():
        tree = write(base / "raw" / name, EmptyFiles())
        only = tree.prepare_flags[1:2] if "--only" in tree.prepare_flags else ()
        prepare_empty(tree, base / name, *only)
    shutil.rmtree(base / "raw")
    build_frame_lists(base / "frame_lists", frames=1)
    build_deepfakebench(base / "deepfakebench", frames=0)
    _build_others(base)


def _build_others(base: Path) -> None:
    from loaders import DATASETS
    from loaders.listing import ListingConfig
    from loaders.splits.drawing import SplitConfig
    from loaders.splits.files import make_split, write_split

    listing = DATASETS["fakeavceleb"](base / "fakeavceleb", ListingConfig())
    write_split(base / "split", make_split(listing, SplitConfig()))
    (base / "exclusions").mkdir()
    for name in ("cropped_video.mp4", "cropped_video.wav", "landmarks.npy"):
        (base / "exclusions" / name).touch()
    (base / "exclusions" / "list.txt").write_text(f"# reviewed\n{listing.clips[0].clip_id}\n")
    (base / "folds").mkdir()
    ids = sorted({clip.identity.rpartition("/")[2] for clip in listing.clips})
    for number in range(1, 6):
        names = [name for index, name in enumerate(ids) if index % 5 != number - 1]
        (base / "folds" / f"train_{number}.txt").write_text("\n".join(["source", *names]) + "\n")
    (base / "predictions").mkdir()
    lines = [
        "clip_id,identity,category,method,label,logit,prob,video_prob,audio_prob,num_windows,donor_disjoint"
    ]
    lines += [f"x/{i},x/p{i // 2},a,b,{i % 2},{i / 7},0.5,,,3,0" for i in range(12)]
    (base / "predictions" / "predictions.csv").write_text("\n".join(lines) + "\n")
    (base / "results").mkdir()
    result = {
        "dataset": "kodf",
        "split": "test",
        "overall": {
            "auc": 0.5,
            "eer": 0.5,
            "accuracy": 0.5,
            "balanced_accuracy": 0.5,
            "num_real": 3,
            "num_fake": 3,
        },  # fmt: skip
        "intervals": {"overall": {"auc": [0.4, 0.6]}},
        "run": {
            "name": "a",
            "checkpoint_sha256": "0",
            "model": "m",
            "preset": "p",
            "trained_on": ["kodf"],
            "seed": 1,
            "split_seed": 1,
            "fold": "1/5",
            "configuration": "c",
        },
    }
    (base / "results" / "test_metrics.json").write_text(
        json.dumps({"datasets": {"kodf": result, "dfdc": result}})
    )
    (base / "curves").mkdir()
    (base / "curves" / "metrics.csv").write_text("epoch,train_total,val_auc\n0,1.5,0.5\n1,1.2,\n")
    (base / "audit").mkdir()
    finding = {"kind": "leak", "summary": "s", "remedy": "r", "examples": ["x"], "is_note": False}
    content = {"dataset": "kodf", "findings": [finding], "split_checksum": "0", "num_clips": 3}
    (base / "audit" / "audit.json").write_text(json.dumps(content))


def _start(base: Path, folder: Path, name: str) -> Path:
    (folder / TARGET).write_text(name)
    return Path(shutil.copytree(base / name, folder / "root", symlinks=True))


def _tables(root: Path) -> list[Path]:
    """The files of a tree that are no clip's."""
    clip_files = {"cropped_video.mp4", "cropped_video.wav", "landmarks.npy"}
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".png")
    return sorted(path for path in files if path.name not in clip_files)


def untouched(name: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        _start(base, folder, name)

    return make


def changed(name: str) -> Callable[..., str]:
    """One of the tables is another."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        path = pick(rng, _tables(_start(base, folder, name)))
        mutate = mutate_json if path.suffix == ".json" else mutate_table
        data, what = mutate(rng, path.read_bytes())
        path.write_bytes(data)
        if name == "split" and rng.integers(2):  # as somebody would who knows how the checksum is made
            _sign(path)
            what += ", signed"
        return f"{path.name}: {what}"

    return make


def changed_frame(name: str) -> Callable[..., str]:
    """Other bytes in a frame."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        path = pick(rng, sorted(_start(base, folder, name).rglob("*.png")))
        data, what = damage(rng, path.read_bytes())
        path.write_bytes(data)
        return f"{path.parent.name}/{path.name}: {what}"

    return make


def _sign(path: Path) -> None:
    import hashlib

    _, _, text = path.read_bytes().partition(b"\n")
    path.write_bytes(b"# sha256=" + hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def renamed(name: str) -> Callable[..., str]:
    """A folder or a clip has another name, as far as file systems have such names."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        root = _start(base, folder, name)
        path = pick(rng, sorted(path for path in root.rglob("*") if path.is_dir()))
        text = nasty_text(rng)
        new = (
            b"\xff\xfe"
            if text == "\udcff"
            else text.encode(errors="replace").replace(b"/", b":").replace(b"\0", b"")
        )
        target = os.path.join(os.fsencode(path.parent), new[:200] or b"=x")  # noqa: PTH118 (bytes)
        if os.path.lexists(target):
            return "as it was"
        os.rename(os.fsencode(path), target)  # noqa: PTH104
        return f"{path.relative_to(root)} is {new[:40]!r}"

    return make


def failures(name: str) -> Callable[..., str]:
    """A failures.csv that lists paths which no video has."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        root = _start(base, folder, name)
        cells = [pick(rng, NASTY_TEXTS) for _ in range(3)]
        quoted = ['"' + cell.replace('"', '""') + '.mp4"' for cell in cells]
        text = "path,reason\n" + "".join(f"{cell},broken\n" for cell in quoted)
        (root / "failures.csv").write_bytes(text.encode("utf-8", errors="surrogatepass"))
        return repr(cells)[:100]

    return make


def link_to_itself(rng: np.random.Generator, base: Path, folder: Path) -> str:
    """Links to the folder above, with which a walk that follows them would never end."""
    name = pick(rng, NAMED)
    root = _start(base, folder, name)
    for link in ("a", "b"):
        (root / link).symlink_to(".")
        (root / f"{link}_2").symlink_to(link)
    return name


def links_in_a_circle(rng: np.random.Generator, base: Path, folder: Path) -> str:
    name = pick(rng, NAMED)
    root = _start(base, folder, name)
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    return name


def clip_in_the_root(rng: np.random.Generator, base: Path, folder: Path) -> str:
    name = pick(rng, NAMED)
    root = _start(base, folder, name)
    for file in ("cropped_video.mp4", "cropped_video.wav", "landmarks.npy"):
        (root / file).touch()
    return name


def folder_for_a_table(rng: np.random.Generator, base: Path, folder: Path) -> str:
    name = pick(rng, WITH_TABLES)
    path = pick(rng, _tables(_start(base, folder, name)))
    path.unlink()
    path.mkdir()
    return f"{name}: {path.name}"


WITH_TABLES = [name for name in TREES if name not in ("avlips", "deepfaketimit", "ravdess")]
RECIPES = [
    *(Recipe(f"{name}: untouched", untouched(name), PROCESSED) for name in (*TREES, *FRAMES, *OTHERS)),
    *(Recipe(f"{name}: another table", changed(name)) for name in (*WITH_TABLES, *FRAMES) for _ in range(16)),
    *(Recipe(f"{name}: another frame", changed_frame(name)) for name in FRAMES for _ in range(8)),
    *(Recipe(f"{name}: another file", changed(name)) for name in OTHERS for _ in range(10)),
    *(Recipe(f"{name}: another name", renamed(name)) for name in (*NAMED, *FRAMES) for _ in range(3)),
    *(
        Recipe(f"{name}: failures.csv", failures(name))
        for name in ("deepfaketimit", "ravdess", "celebdf")
        for _ in range(2)
    ),
    *(Recipe("links to the folder above", link_to_itself) for _ in range(3)),
    Recipe("links in a circle", links_in_a_circle),
    *(Recipe("a clip in the root", clip_in_the_root) for _ in range(3)),
    Recipe("a folder for a table", folder_for_a_table),
]


def exercise(folder: Path, output: Path) -> str:
    """Read what a case is about as the commands do."""
    name, root = (folder / TARGET).read_text(), folder / "root"
    if name in TREES or name in FRAMES:
        _list(name, root, output)
    else:
        {
            "split": _read_split,
            "exclusions": _read_exclusions,
            "folds": _read_folds,
            "predictions": _compare,
            "results": _matrix,
            "curves": _curves,
            "audit": _audit,
        }[name](root, output)
    return ""


def _list(name: str, root: Path, output: Path) -> None:
    from loaders import DATASETS
    from loaders.listing import ListingConfig, summarize
    from loaders.splits.drawing import SplitConfig
    from loaders.splits.files import make_split, read_split, split_checksum, write_split
    from utils.clip.files import VIDEO_NAME
    from utils.clip.frames import read_frames

    prefixes = PREFIXES if name == "frame_lists" else ()
    listing = DATASETS[name](root, ListingConfig(allow_missing=True, path_prefix=prefixes))
    for clip in listing.clips if name in FRAMES else ():
        read_frames(clip.folder / VIDEO_NAME, np.arange(len(clip.frames or ())), clip.frames)
    above = f"{os.path.normpath(root)}{os.sep}"
    for clip in listing.all_clips:
        if not os.path.normpath(clip.folder).startswith(above):
            raise BrokenPromiseError(f"names a folder outside the data root: {clip.folder}")
    # as large parts as a tree of four persons has
    split = make_split(listing, SplitConfig(val_fraction=0.25, test_fraction=0.25), check=False)
    summarize(listing, split.split_of)
    write_split(output / "splits", split)
    again = read_split(output / "splits" / f"{name}.csv")
    if split_checksum(again) != split_checksum(split):
        raise BrokenPromiseError("a split file does not say what was written to it")
    _round_trip(listing.clips, output)


def _round_trip(clips: list, output: Path) -> None:
    """predictions.csv of the clips that were listed, read by test.py --compare."""
    from loaders.splits.lists import ClipNames, read_list
    from loaders.splits.overlap import named_by_clip, named_by_name, overlaps
    from utils.evaluation.results import write_predictions
    from utils.evaluation.scoring import ClipScores
    from utils.report.compare import read_predictions

    count = len(clips)
    scores = ClipScores(
        clip_ids=[clip.clip_id for clip in clips],
        labels=np.array([float(clip.label) for clip in clips]),
        logits=np.linspace(-1, 1, count),
        video_logits=None,
        audio_logits=None,
        num_windows=np.ones(count, int),
        window_logits=[np.zeros(1)] * count,
        mean_terms={},
    )
    write_predictions(output / "predictions.csv", clips, scores, set())
    predictions = read_predictions(output / "predictions.csv")
    found = list(zip(predictions.clip_ids.tolist(), predictions.text["method"].tolist(), strict=True))
    if found != sorted((clip.clip_id, clip.method) for clip in clips):
        raise BrokenPromiseError("predictions.csv does not say what was written to it")
    rows = read_list(output / "predictions.csv")
    names = ClipNames(clips[0].dataset, clips)
    if [row.name for row in rows] != [clip.clip_id for clip in names.find_all([row.name for row in rows])]:
        raise BrokenPromiseError("a clip is not found by its own id")
    overlaps({"train": map(named_by_clip, clips), "val": [named_by_name(clips[0].dataset, rows[0].name)]})


def _read_split(root: Path, output: Path) -> None:
    from loaders.splits.drawing import require_disjoint
    from loaders.splits.files import read_split, write_split

    split = read_split(root / "fakeavceleb.csv")
    require_disjoint(split)
    write_split(output / "splits", split)


def _read_exclusions(root: Path, output: Path) -> None:
    from loaders.listing import ListingConfig, select_clips
    from tests.clip_factory import make_clip

    clips = [make_clip(root, clip_id=f"fakeavceleb/{name}") for name in "xy"]
    config = ListingConfig(exclude_list=root / "list.txt", allow_missing=True)
    select_clips("test", root.parent, clips, config)


def _read_folds(root: Path, output: Path) -> None:
    from loaders.splits.protocols import mrdf5
    from tests.clip_factory import ROWS, make_clip

    ids = sorted(
        {line for path in root.glob("*.txt") for line in path.read_bytes().splitlines() if line[:2] == b"id"}
    )
    names = [name.decode("ascii", errors="replace") for name in ids]
    clips = [
        make_clip(root, clip_id=f"{name}/{kind}", identity=f"fakeavceleb/{name}", category=kind)
        for name in names
        for kind, *_ in ROWS
    ]
    mrdf5("fakeavceleb", clips or [make_clip(root)], 1, files=root, seed=1)


def _compare(root: Path, output: Path) -> None:
    from utils.report.compare import as_table, compare_runs

    as_table(compare_runs([root, root], (0.5, 0.5)))


def _matrix(root: Path, output: Path) -> None:
    from utils.report import matrix

    matrix.main(["--matrix", str(root), "--output_dir", str(output)])


def _curves(root: Path, output: Path) -> None:
    from utils.report.page import read_training_curves

    read_training_curves(root / "metrics.csv")


def _audit(root: Path, output: Path) -> None:
    from utils.report.page import read_audit

    read_audit([root], "kodf", "0")
