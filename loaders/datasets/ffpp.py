"""FaceForensics++ with FaceShifter and DeepFakeDetection: split files and file names to clips.

`--variant` chooses the compression of originals and fakes: c23 (default), c40, or c0, whose folder the
download script calls `raw`. The split is the official one: splits/train.json, val.json and test.json list
pairs of sequences; each pair gives two fakes per method, `<target>_<source>` and the reverse. These files are
required, although they are not part of the download.

DeepFakeDetection (28 actors) has no split; it counts as test. Its real clips are used with its fakes only:
`--methods` without DeepFakeDetection leaves out the actors, `--methods DeepFakeDetection` the sequences of
YouTube.

The releases have no sound. preprocess.ffpp_audio cuts the sound of the sequences out of their sources, and a
fake has the sound of its target: `audio_label` is 0, genuine. It is 0 for clips prepared without sound, too
(--allow_silent, the only way for DeepFakeDetection): their sound track is empty, not forged; clip.json says
`silent`.

The layout of the published Beyond-Masking code (`FaceForensics++/video_data/c40_features`) is read, too.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from loaders.datasets.json_files import read_json
from loaders.datasets.metadata import FolderIndex, new_clip, no_metadata
from loaders.listing import Listing, ListingConfig, select_clips, tally
from utils.clip_type import Clip
from utils.errors import DatasetError, IncompleteError
from utils.names import brief

log = logging.getLogger(__name__)

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
ACTORS = "DeepFakeDetection"
VARIANTS = {"c23": ("c23",), "c0": ("raw", "c0"), "c40": ("c40",)}  # -> names of its folder; first: default
SPLITS = ("train", "val", "test")
PUBLISHED_PAIRS = {"train": 360, "val": 70, "test": 70}
SEQUENCE = re.compile(r"\d{3}")
ACTOR_REAL = re.compile(r"(?P<target>\d{2})__(?P<scene>\w+)")
ACTOR_FAKE = re.compile(r"(?P<target>\d{2})_(?P<source>\d{2})__(?P<scene>\w+)__[A-Z0-9]{8}")
RELEASED_CLIPS = "video_data/c40_features"  # of the published code, which has c40 only


def list_ffpp(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared FaceForensics++ tree in one compression.

    Raises DatasetError where root, split files or names are not as expected, or if there is no original or
    no fake.
    """
    tree = _find_tree(data_root, config.variant_of("ffpp", tuple(VARIANTS)))
    pairs = _read_pairs(tree.root)
    clips = [*_list_sequences(tree, pairs), *_list_actors(tree)]
    for label, kind in ((0, "original"), (1, "fake")):
        if not any(clip.label == label for clip in clips):
            raise IncompleteError(
                f"{tree.folders.root}: no {kind} clip of {tree.variant}; expected "
                f"{tree.place('original_sequences/youtube')} and "
                f"{tree.place('manipulated_sequences/Deepfakes')} or others of {', '.join(METHODS)}"
            )
    unlisted = _find_unlisted(tree, clips)
    _warn_of_shared_videos(tree, pairs)
    unwanted = _other_reals(clips, config.methods)
    variants = tuple(VARIANTS)
    return select_clips(
        "ffpp", data_root, clips, config, variants=variants, unwanted=unwanted, unlisted=unlisted
    )


@dataclass(frozen=True)
class _Tree:
    """One compression of a prepared tree."""

    root: Path  # holds splits/
    folders: FolderIndex  # holds original_sequences/ and manipulated_sequences/
    variant: str
    released: bool = False

    def place(self, family: str) -> PurePosixPath:
        """The folder of a family's clip folders, e.g. of "original_sequences/youtube"."""
        if self.released and family.startswith("original_sequences"):
            return PurePosixPath(family)
        places = [PurePosixPath(family, name, "videos") for name in VARIANTS[self.variant]]
        return next((place for place in places if self.folders.find(place)), places[0])

    def names(self, family: str) -> list[str]:
        """The prepared clips of a family, sorted; the published code leaves .mp4 files next to folders."""
        entries = self.folders.entries(str(self.folders.clip_folder(self.place(family))))
        return sorted({name.removesuffix(".mp4") for name in entries})

    def clip_id(self, family: str, name: str) -> str:
        """Without "ffpp/"; the same in either layout, so that a split file fits both."""
        return f"{family}/{self.variant}/videos/{name}"


def _find_tree(data_root: Path, variant: str) -> _Tree:
    for root in (data_root, data_root / "FaceForensics++"):
        released = (root / RELEASED_CLIPS).is_dir()
        tree = _Tree(root, FolderIndex(root / RELEASED_CLIPS if released else root), variant, released)
        families = [
            root / kind / family
            for kind in ("original_sequences", "manipulated_sequences")
            for family in tree.folders.entries(str(root / kind))
        ]
        found = {name for family in families for name in tree.folders.entries(str(family))}
        if released:
            found = {"c40"}
        elif not families:
            continue
        if found.isdisjoint(VARIANTS[variant]):
            there = sorted(name for name, folders in VARIANTS.items() if not found.isdisjoint(folders))
            raise DatasetError(
                f"{root}: no clip of {variant}; prepared there: {', '.join(there) or 'none'}; choose another "
                "--variant"
            )
        return tree
    raise no_metadata(
        data_root, "original_sequences", "manipulated_sequences", f"FaceForensics++/{RELEASED_CLIPS}"
    )


def _read_pairs(root: Path) -> dict[tuple[str, str], str]:
    """(sequence, sequence) -> split.

    Raises DatasetError if a file is missing or is not a list of pairs, or if a sequence is listed twice.
    """
    pairs: dict[tuple[str, str], str] = {}
    split_of: dict[str, str] = {}
    for split in SPLITS:
        path = root / "splits" / f"{split}.json"
        if not path.is_file():
            raise IncompleteError(
                f"{path}: no such file; copy train.json, val.json and test.json from dataset/splits of "
                "https://github.com/ondyari/FaceForensics: the official split is needed"
            )
        for number, pair in enumerate(read_json(path, list)):
            where = f"{path}, pair {number}"
            is_pair = isinstance(pair, list) and len(pair) == 2
            if not is_pair or not all(isinstance(name, str) and SEQUENCE.fullmatch(name) for name in pair):
                raise DatasetError(f'{where}: expected pairs such as ["071", "054"], found {brief(pair)}')
            for name in pair:
                if name in split_of:
                    raise DatasetError(f"{where}: sequence {name} is also in {split_of[name]}.json, or twice")
                split_of[name] = split
            pairs[pair[0], pair[1]] = split
    return pairs


def _clip(
    tree: _Tree, family: str, name: str, method: str, *, target: str, source: str = "", **fields: Any
) -> Clip:
    """A clip; `fields` as new_clip takes them."""
    is_actor = target.startswith("actor")
    return new_clip(
        "ffpp",
        tree.clip_id(family, name),
        tree.folders.clip_folder(tree.place(family) / name),
        (int(method != "real"), 0),
        category=method,
        person=target,
        donors=() if source == target else (source,),
        identity_is="person" if is_actor else "family",  # who is seen in a sequence is not published
        stratum="actors" if is_actor else "youtube",
        **fields,
    )


def _list_sequences(tree: _Tree, pairs: dict[tuple[str, str], str]) -> Iterator[Clip]:
    """Every original and fake that the pairs name, in the families that are there."""
    original = "original_sequences/youtube"
    methods = [name for name in METHODS if tree.names(f"manipulated_sequences/{name}")]
    if not tree.names(original):
        if methods:
            raise IncompleteError(
                f"{tree.folders.root / tree.place(original)}: no original is prepared, although fakes of "
                f"{', '.join(methods)} are; prepare the originals, too"
            )
        return
    for pair, split in sorted(pairs.items()):
        for target, source in (pair, pair[::-1]):
            common = {"target": target, "pair": tree.clip_id(original, target), "split": split}
            common["group"] = "+".join(sorted(pair))
            yield _clip(tree, original, target, "real", **common)
            for method in methods:
                family, name = f"manipulated_sequences/{method}", f"{target}_{source}"
                yield _clip(tree, family, name, method, source=source, **common)


def _list_actors(tree: _Tree) -> Iterator[Clip]:
    """The clips of DeepFakeDetection: no file lists them, so those that are prepared count as all."""
    original = "original_sequences/actors"
    for family, method, pattern, example in (
        (original, "real", ACTOR_REAL, "01__walking_outside"),
        (f"manipulated_sequences/{ACTORS}", ACTORS, ACTOR_FAKE, "01_02__walking_outside__YVGY8LOK"),
    ):
        for name in tree.names(family):
            match = pattern.fullmatch(name)
            if match is None:
                raise DatasetError(
                    f"{tree.folders.root / tree.place(family) / name}: expected a name such as {example}"
                )
            target, scene = match["target"], match["scene"]
            yield _clip(
                tree,
                family,
                name,
                method,
                target=f"actor{target}",
                source=f"actor{match['source']}" if method == ACTORS else "",
                pair=tree.clip_id(original, f"{target}__{scene}"),
                split="test",
            )


def _other_reals(clips: list[Clip], methods: tuple[str, ...]) -> set[str]:
    """Ids of the real clips of actors, or of YouTube, where `methods` names none of their fakes."""
    reals = [clip for clip in clips if clip.label == 0]
    if not methods:
        if len({clip.stratum for clip in reals}) > 1:
            log.info(
                "ffpp: the test part has real clips of YouTube and of %s; --methods %s leaves out the actors",
                *(ACTORS, " ".join(sorted({clip.method for clip in clips} - {"real", ACTORS}))),
            )
        return set()
    wanted = {"actors" if method == ACTORS else "youtube" for method in methods}
    return {clip.clip_id for clip in reals if clip.stratum not in wanted}


def _find_unlisted(tree: _Tree, clips: list[Clip]) -> list[str]:
    """The prepared clips of this compression that the split files do not name; their number is logged."""
    listed = {clip.clip_id for clip in clips}
    unlisted: Counter[str] = Counter()
    found = []
    methods = tree.folders.entries(str(tree.folders.root / "manipulated_sequences"))
    for family in ("original_sequences/youtube", *(f"manipulated_sequences/{name}" for name in methods)):
        ids = [tree.clip_id(family, name) for name in tree.names(family)]
        others = [clip_id for clip_id in ids if f"ffpp/{clip_id}" not in listed]
        unlisted[family] = len(others)
        found += others
    if unlisted.total():
        log.warning(
            "ffpp: %d prepared clips are not used, since no split file names them or their method is unknown "
            "(%s)",
            *(unlisted.total(), tally(unlisted)),
        )
    return found


def _warn_of_shared_videos(tree: _Tree, pairs: dict[tuple[str, str], str]) -> None:
    """Log how many videos the official split tears apart: the 1,000 sequences come from 977 videos.

    Needs conversion_dict.json; does nothing without it.
    """
    path = tree.root / "conversion_dict.json"
    if not path.is_file():
        return
    split_of = {name: split for pair, split in pairs.items() for name in pair}
    parts: dict[str, set[str]] = {}
    for name, video in read_json(path, dict).items():
        if name in split_of:
            parts.setdefault(str(video).rpartition(" ")[0], set()).add(split_of[name])
    torn = sum(len(splits) > 1 for splits in parts.values())
    if torn:
        log.warning(
            "ffpp: %d YouTube videos have sequences in more than one part of the official split: the same "
            "person may be in two of them",
            torn,
        )
