"""AV-Deepfake1M++ (1M-Deepfakes 2025): metadata to clips of three source corpora, each with its own names.

`{train,val}_metadata.json` list, below train/ and val/ (or train/train/ and val/val/: its archives hold a
folder of their own name),

    vox_celeb_2/<speaker>/<video>/<utterance>/<kind>.mp4
    lrs3/<talk>/<utterance>/<kind>.mp4
    silent_videos/subject_<n>_<hash>_vid_<n>_<n>/<kind>.mp4

and parts of such clips (`<kind>_p1.mp4`). A person is a corpus and a speaker, a talk or a subject. The labels
of testA/ and testB/ are not published: the validation part is the test part here, and validation is carved
from the training part, by person. Talks and subjects of the official parts overlap. Perturbations are in the
files already. Prepare with --allow_silent: the fakes of silent_videos have no sound.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

from loaders.datasets.av1m_rows import (
    CORPORA,
    MODIFY_TYPES,
    PARTS,
    read_kind,
    read_parts,
    read_segments,
    report,
)
from loaders.datasets.metadata import is_empty, new_clip, parts_inside, stem_of
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.names import brief

KNOWN_OVERLAP = (
    "AV-Deepfake1M++'s official parts share persons; --split_source identity draws parts that do not"
)
SUBJECT = re.compile(r"((subject_\d+)_.*_vid_\d+)_\d+")  # (video, person) of a folder of silent_videos


def list_av_deepfake1m_pp(data_root: Path, config: ListingConfig) -> Listing:
    """All labelled clips of a prepared AV-Deepfake1M++ tree.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    oddities: Counter[str] = Counter()

    @functools.cache
    def place(part: str, corpus: str) -> str:
        """Folder of a corpus: the archives of some releases nest once more."""
        nested = data_root / part / part / corpus
        return str(nested if nested.is_dir() else data_root / part / corpus)

    def make_clip(part: str, where: str, entry: dict[str, Any]) -> Clip:
        names = _names(part, where, entry["file"])
        folder = "/".join((place(part, names[0]), *names[1:]))
        return _make_clip(part, names, folder, where, entry, oddities)

    clips = read_parts("av_deepfake1m_pp", data_root, make_clip)
    report("av_deepfake1m_pp", data_root, oddities, "testA_files.txt", "testB_files.txt")
    return select_clips("av_deepfake1m_pp", data_root, clips, config, known_overlap=KNOWN_OVERLAP)


def _names(part: str, where: str, file: Any) -> list[str]:
    """Corpus, folders and kind of a clip; a list may name the part first, also twice."""
    names = parts_inside(file, where)
    while names and names[0] == part:
        del names[0]
    if not names or len(names) != CORPORA.get(names[0]):
        expected = ", ".join(f"{name}/ and {depth - 2} folders" for name, depth in CORPORA.items())
        raise DatasetError(f"{where}: expected a clip in {expected}, found {brief(file)}")
    return [*names[:-1], stem_of(names[-1])]


def _make_clip(
    part: str,
    names: list[str],
    folder: str,
    where: str,
    entry: dict[str, Any],
    oddities: Counter[str],
) -> Clip:
    corpus, speaker = names[:2]
    person, video = f"{corpus}/{speaker}", "/".join(names[: max(2, len(names) - 2)])
    if corpus == "silent_videos" and (match := SUBJECT.fullmatch(speaker)):
        person, video = f"{corpus}/{match[2]}", f"{corpus}/{match[1]}"
    kind = read_kind(where, entry)
    models = [entry.get(f"{name}_model") for name in ("video", "audio")]
    named = [str(model).lower() for model in models if not is_empty(model) and model != "None"]
    return new_clip(
        "av_deepfake1m_pp",
        f"{part}/{'/'.join(names)}",
        folder,
        MODIFY_TYPES[kind],
        category=kind,
        method="+".join(named),
        person=person,
        identity_is="person",
        pair="/".join(names[:-1]),
        split=PARTS[part],
        segments=read_segments(where, entry, kind, oddities),
        source_video=video,
    )
