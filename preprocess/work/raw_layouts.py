"""Layouts of raw data sets: which files are videos, where separate sound files lie, which metadata they have.

A data set may come in several layouts (releases, distributions, mirrors); the first one that fits is used.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from preprocess.work.jobs import CLIP_FILES
from preprocess.work.stores import LocalStore, Store
from utils.clip.files import VIDEO_SUFFIXES
from utils.errors import DatasetError

ANY_VIDEO = tuple(f"**/*{suffix}" for suffix in VIDEO_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class RawLayout:
    """Globs relative to the root, in Unicode form NFC; `**` matches any number of folders.

    The suffixes of videos and side sounds match in upper and lower case.
    """

    videos: tuple[str, ...]
    next_to: str = ""  # name of a file: .mp4 files next to one are videos, too
    metadata: tuple[str, ...] = ()  # files to copy to OUTPUT; each glob must match one
    optional_metadata: tuple[str, ...] = ()  # the same, but they may be missing
    root_names: tuple[str, ...] = ()  # folders that may lie between --source and the root
    # video -> candidates for its separate sound file, a .wav, best first
    side_sounds: Callable[[PurePosixPath], tuple[str, ...]] = lambda video: ()
    # video -> the version (--variant) that it belongs to, where the loader reads one at a time
    variant: Callable[[PurePosixPath], str] = lambda video: ""


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """Files of a raw data set. Paths are relative to its root and spelled as on disk."""

    root: Store
    videos: list[Path]
    sounds: dict[Path, Path] = field(default_factory=dict)  # video -> its separate sound file
    metadata: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)  # its other files
    variants: list[str] = field(default_factory=list)  # of the videos; [""] if there are none


FFPP_COMPRESSIONS = ("raw", "c0", "c23", "c40")  # the download script's raw is the papers' c0
FFPP_SOUNDS = "sound"  # made by preprocess.ffpp_audio: <sequence>.wav
_FFPP_VIDEO = re.compile(
    r"(?:original_sequences/youtube|manipulated_sequences/(?!DeepFakeDetection/)[^/]+)/[^/]+/videos/"
    r"(\d{3})(?:_\d{3})?\.(?i:mp4)"
)


def ffpp_sounds(video: PurePosixPath) -> tuple[str, ...]:
    """FaceForensics++: a fake has the sound of its target, the first of its two sequences.

    DeepFakeDetection's videos have no sound anywhere.
    """
    match = _FFPP_VIDEO.fullmatch(video.as_posix())
    return (f"{FFPP_SOUNDS}/{match[1]}.wav",) if match else ()


def _kodf_part(part: str, other: str) -> RawLayout:
    """KoDF as AI-Hub distributes it, with the tables of `part`, and those of `other` if they exist.

    Its perturbed clips (*_탐지방해) are left out: no table says whom they show.
    """
    return RawLayout(
        videos=tuple(f"*/*/{name}_{kind}/**/*.mp4" for name in (part, other) for kind in ("원본", "변조")),
        metadata=(f"*/*/{part}_meta_data/*원본*.csv", f"*/*/{part}_meta_data/*변조*.csv"),
        optional_metadata=(f"*/*/{other}_meta_data/*.csv",),
        root_names=KODF_ROOTS,
    )


LAVDF_TABLES = ("metadata.min.json", "metadata.json")
AV_DEEPFAKE1M_TABLES = (  # a list, or a file for each video
    *("train_metadata.json", "val_metadata.json"),
    *("train_metadata/**/*.json", "val_metadata/**/*.json"),
)
IDFORGE_LISTS = tuple(
    f"{folder}{part}.csv" for folder in ("IDForge_v1/", "") for part in ("train", "val", "test")
)
IDFORGE_TYPES = (  # folders of the clips; ref/ next to them has the reference set
    *("pristine", "face_*", "lip_*", "rvc_textmismatch", "tts_textgen", "tts_textmismatch"),
)
KODF_ROOTS = ("003.딥페이크", "KoDF", "kodf")


def _dfdc(needed: str, *, any_folder: bool = True) -> RawLayout:
    """DFDC with the metadata `needed`, and whichever other parts exist: of any name, or only of the usual."""
    parts = tuple(f"{above}dfdc_train_part_*/" for above in ("", "*/", "train/*/"))
    parts += ("train_sample_videos/", "*/train_sample_videos/")
    metadata = (*(f"{part}metadata.json" for part in parts), "validation/labels.csv", "test/labels.csv")
    return RawLayout(
        videos=(*(f"{part}*.mp4" for part in parts), "validation/*.mp4", "test/*.mp4"),
        next_to="metadata.json" if any_folder else "",
        metadata=(needed,),
        optional_metadata=("**/metadata.json", *metadata) if any_folder else metadata,
        root_names=("DFDC", "dfdc"),
    )


def _next_to_avi(video: PurePosixPath) -> tuple[str, ...]:
    """DeepfakeTIMIT: the wav has the name of the video, <sentence>-video-<donor>, or of the sentence."""
    sentence = video.stem.split("-video-")[0]
    return tuple(video.with_name(f"{stem}.wav").as_posix() for stem in (video.stem, sentence))


def _in_wav_folder(video: PurePosixPath) -> tuple[str, ...]:
    """AVLips: wav/<folder>/<number>.wav, also of videos that have sound themselves."""
    return (f"wav/{video.with_suffix('.wav')}",)


_ONE_LAYOUT = {
    "avlips": RawLayout(
        videos=("0_real/*.mp4", "1_fake/*.mp4"),
        root_names=("AVLips", "AVLips1"),
        side_sounds=_in_wav_folder,
    ),
    "celebdf": RawLayout(
        videos=tuple(
            f"{folder}/**/*.mp4"
            for folder in ("Celeb-real", "YouTube-real", "Youtube-real", "Celeb-synthesis")
        ),
        metadata=("List_of_testing_videos.txt",),
        root_names=("Celeb-DF-v2", "Celeb-DF-v1", "Celeb-DF", "Celeb-DF++", "Celeb-DF-PP"),
    ),
    "deepfaketimit": RawLayout(
        videos=(
            "higher_quality/*/*.avi",
            "lower_quality/*/*.avi",
            "low_quality/*/*.avi",
            *(f"real/*/*{suffix}" for suffix in VIDEO_SUFFIXES),
        ),
        root_names=("DeepfakeTIMIT",),
        side_sounds=_next_to_avi,
    ),
    "dfdc_preview": RawLayout(
        videos=("original_videos/**/*.mp4", "method_*/**/*.mp4"),
        metadata=("dataset.json",),
        root_names=("dfdc_preview_set",),
    ),
    "fakeavceleb": RawLayout(
        videos=(
            "RealVideo-RealAudio/**/*.mp4",
            "RealVideo-FakeAudio/**/*.mp4",
            "FakeVideo-RealAudio/**/*.mp4",
            "FakeVideo-FakeAudio/**/*.mp4",
        ),
        metadata=("meta_data.csv",),
        root_names=("FakeAVCeleb_v1.2", "FakeAVCeleb"),
    ),
    "ffpp": RawLayout(
        videos=tuple(
            f"{kind}_sequences/*/{compression}/videos/*.mp4"
            for kind in ("original", "manipulated")
            for compression in FFPP_COMPRESSIONS
        ),
        optional_metadata=("splits/*.json", "conversion_dict.json"),
        root_names=("FaceForensics++", "FaceForensics"),
        side_sounds=ffpp_sounds,
        variant=lambda video: video.parts[2].replace("raw", "c0"),
    ),
    "polyglotfake": RawLayout(  # clips are found by their names
        videos=("**/*.mp4",),
        metadata=("**/to_??.json", "**/??.json"),  # json_file/ of its repository
        root_names=("PolyGlotFake", "PolyGlotFake_dataset"),
    ),
    "deepspeak": RawLayout(  # the zip parts unpack to folders of various names
        videos=("**/*.mp4",),
        metadata=("annotations-real.csv", "annotations-fake.csv", "annotations-split-def.csv"),
        root_names=("deepspeak_v1", "deepspeak_v1_1", "deepspeak_v2", "DeepSpeak"),
    ),
}
_SEVERAL_LAYOUTS: dict[str, tuple[RawLayout, ...]] = {
    "dfdc": (
        _dfdc("validation/labels.csv"),
        _dfdc("test/labels.csv"),
        # with parts alone, the folder that they lie in is known by their usual names
        _dfdc("**/dfdc_train_part_*/metadata.json", any_folder=False),
        _dfdc("**/metadata.json"),
    ),
    "kodf": (
        _kodf_part("train", "validate"),
        _kodf_part("validate", "train"),
        RawLayout(  # the edition for other countries has no tables
            videos=("original_videos/**/*.mp4", "synthesized_videos/**/*.mp4"), root_names=KODF_ROOTS
        ),
    ),
    "lavdf": tuple(
        RawLayout(
            videos=("train/*.mp4", "dev/*.mp4", "test/*.mp4"),
            metadata=(name,),
            optional_metadata=LAVDF_TABLES,  # the first may list nothing
            root_names=("LAV-DF", "LAVDF"),
        )
        for name in LAVDF_TABLES
    ),
    "av_deepfake1m": tuple(
        RawLayout(  # the clips of test/ have no labels
            videos=("train/**/*.mp4", "val/**/*.mp4"),
            metadata=(name,),
            optional_metadata=(*AV_DEEPFAKE1M_TABLES, "test_files.txt"),
            root_names=("AV-Deepfake1M", "AV-Deepfake-1M"),
        )
        for name in AV_DEEPFAKE1M_TABLES
    ),
    "av_deepfake1m_pp": tuple(
        RawLayout(  # the clips of testA/ and testB/ have no labels
            videos=("train/**/*.mp4", "val/**/*.mp4"),
            metadata=(name,),
            optional_metadata=(*AV_DEEPFAKE1M_TABLES, "testA_files.txt", "testB_files.txt"),
            root_names=("AV-Deepfake1M-PlusPlus", "AV-Deepfake1M++"),
        )
        for name in AV_DEEPFAKE1M_TABLES
    ),
    "deepfake_eval_2024": tuple(
        RawLayout(  # its pictures and sounds have tables of their own
            videos=tuple(f"video-data/{glob}" for glob in ANY_VIDEO),
            metadata=(name,),
            root_names=("Deepfake-Eval-2024",),
        )
        for name in ("video-metadata-publish-with-links.csv", "video-metadata-publish.csv")
    ),
    "idforge": tuple(
        RawLayout(
            videos=tuple(f"{above}{kind}/**/*.mp4" for above in ("main/", "") for kind in IDFORGE_TYPES),
            metadata=(name,),
            optional_metadata=IDFORGE_LISTS,
            root_names=("IDForge_v1", "IDForge"),
        )
        for name in IDFORGE_LISTS
    ),
    "manifest": (
        RawLayout(videos=ANY_VIDEO, metadata=("manifest.csv",)),
        RawLayout(videos=ANY_VIDEO, metadata=("train*.txt",), optional_metadata=("val*.txt", "test*.txt")),
        RawLayout(videos=ANY_VIDEO, metadata=("test*.txt",), optional_metadata=("val*.txt",)),
        RawLayout(videos=tuple(f"{name}/{glob}" for name in ("real", "fake") for glob in ANY_VIDEO)),
    ),
    "mavos_dd": tuple(
        RawLayout(
            videos=tuple(f"*/*/{glob}" for glob in ANY_VIDEO),
            metadata=(name,),
            root_names=("MAVOS-DD",),
        )
        for name in ("mavos_dd.csv", "*.arrow")
    ),
    "ravdess": (
        RawLayout(videos=("**/Actor_*/01-*.mp4",), root_names=("RAVDESS",)),
        RawLayout(videos=("video/01-*.mp4",), root_names=("RAVDESS",)),  # 2D3MF's
    ),
}
SOURCES = {name: (layout,) for name, layout in _ONE_LAYOUT.items()} | _SEVERAL_LAYOUTS


def read_raw_dataset(dataset: str, source: Path | Store) -> RawDataset:
    """Find a data set's files below `source`, or below a folder of its own name in it.

    Raises DatasetError if `source` does not exist, no layout fits, or there is no video.
    """
    if isinstance(source, Path):
        source = LocalStore(source)
    if not source.is_folder():
        raise DatasetError(f"{source}: no such folder; --source must be the folder of the raw {dataset}")
    files_below = cache(_files_below)  # walks each root once per call
    for layout in SOURCES[dataset]:
        for root in _roots(source, layout):
            if not all(_matches(root, glob, files_below) for glob in layout.metadata):
                continue
            files = files_below(root)
            is_video = any_of((*layout.videos, *_globs_next_to(layout.next_to, files)))
            # prepared clips may lie in the root, too
            videos = sorted(
                path for name, path in files.items() if is_video(name) and path.name not in CLIP_FILES
            )
            if videos:
                return _sort_files(root, layout, videos, files)
    names = sorted({name for layout in SOURCES[dataset] for name in layout.root_names})
    inside = f", also not in {' or '.join(names)}" if names else ""
    wanted = " or ".join(map(_description, SOURCES[dataset]))
    raise DatasetError(
        f"{source}: holds no {dataset}{inside}; expected {wanted}; --source must be the folder that the data "
        "set was unpacked to"
    )


def _globs_next_to(name: str, files: dict[str, Path]) -> list[str]:
    folders = [file.removesuffix(name) for file in files if name and PurePosixPath(file).name == name]
    return [f"{folder}*.mp4" for folder in folders]


def _sort_files(root: Store, layout: RawLayout, videos: list[Path], files: dict[str, Path]) -> RawDataset:
    is_metadata = any_of(layout.metadata + layout.optional_metadata)
    metadata = sorted(path for name, path in files.items() if is_metadata(name))
    sounds = _side_sounds(layout, videos, files)
    known = {*videos, *metadata, *sounds.values()}
    return RawDataset(
        root=root,
        videos=videos,
        sounds=sounds,
        metadata=metadata,
        others=[path for path in files.values() if path not in known],
        variants=sorted({layout.variant(PurePosixPath(nfc(video))) for video in videos}),
    )


def _description(layout: RawLayout) -> str:
    """What a layout must hold: all metadata, and some videos."""
    videos = ", ".join(layout.videos[:4]) + (", ..." if len(layout.videos) > 4 else "")
    return " and ".join((*layout.metadata, f"videos ({videos})"))


def _roots(source: Store, layout: RawLayout) -> list[Store]:
    """`source` and its subfolders that may be the root, in either Unicode form of their names."""
    places = [source.below(form) for name in layout.root_names for form in _forms(name)]
    return [source, *(place for place in places if place.is_folder())]


def _forms(name: str) -> dict[str, None]:
    """The Unicode forms in which file systems and archives may hold a name."""
    return dict.fromkeys(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))


def nfc(path: Path) -> str:
    """A path with "/" as separator, in Unicode form NFC."""
    return unicodedata.normalize("NFC", path.as_posix())


def _files_below(root: Store) -> dict[str, Path]:
    """Name in form NFC -> path relative to `root` of all files below it."""
    return {nfc(path): path for path in root.files()}


def _matches(root: Store, glob: str, files_below: Callable[[Store], dict[str, Path]]) -> bool:
    if not set(glob) & set("*?["):
        return any(root.size(form) is not None for form in _forms(glob))
    return any(map(any_of((glob,)), files_below(root)))


def any_of(globs: tuple[str, ...]) -> Callable[[str], object]:
    """A function that tells whether a relative path matches one of the globs.

    Case-sensitive but for the suffix of a video: cameras write .MP4, .MOV or .Mp4.
    """
    if not globs:
        return lambda name: False
    patterns = []
    for glob in globs:
        pattern, stem, suffix = "", glob, ""
        if PurePosixPath(glob).suffix.lower() in VIDEO_SUFFIXES:
            stem, _, suffix = glob.rpartition(".")
        for part in re.split(r"(\*\*/|\*|\?)", stem):
            pattern += {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
        patterns.append(f"{pattern}(?i:\\.{re.escape(suffix)})" if suffix else pattern)
    return re.compile("|".join(patterns)).fullmatch


def _side_sounds(layout: RawLayout, videos: list[Path], files: dict[str, Path]) -> dict[Path, Path]:
    sounds = {}
    files = {f"{name[:-4]}.wav": path for name, path in files.items() if name[-4:].lower() == ".wav"}
    for video in videos:
        candidates = layout.side_sounds(PurePosixPath(nfc(video)))
        place = next((files[name] for name in candidates if name in files), None)
        if place is not None:
            sounds[video] = place
    return sounds
