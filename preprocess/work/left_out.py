"""Files that look like videos but are not taken: nothing is passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from preprocess.work.jobs import CLIP_FILES, PARTIAL_NAME
from utils.clip.files import VIDEO_SUFFIXES

# containers of video that utils/media/allowed.py does not open
OTHER_SUFFIXES = frozenset(
    ".wmv .asf .flv .f4v .swf .vob .ogv .ogm .mxf .rm .rmvb .divx .dv .qt .3g2 .3gpp .mp4v .m1v .m2v .mpe "
    ".mpv .m2p .mod .tod .trp .tp .y4m .h264 .264 .h265 .265 .hevc .ivf .wtv .dvr-ms .insv "
    ".lrv .braw .r3d .mjpeg .mjpg .amv .bik .mk3d".split()
)
# what download tools append to the name of a file that is not complete
UNFINISHED = frozenset(
    ".part .crdownload .download .partial .ytdl .tmp .temp .aria2 .!ut .opdownload .filepart .bc!".split()
)


def left_out_kind(path: Path) -> str:
    """The suffix of a file that looks like a video, in lower case: ".mp4", ".wmv", ".mp4.part"; else ""."""
    suffix = path.suffix.lower()
    if suffix in OTHER_SUFFIXES or suffix in VIDEO_SUFFIXES:
        return "" if path.name in CLIP_FILES else suffix
    inner = Path(path.stem).suffix.lower() if suffix in UNFINISHED else ""
    return f"{inner}{suffix}" if inner in OTHER_SUFFIXES or inner in VIDEO_SUFFIXES else ""


def describe_left_out(files: Iterable[Path]) -> str:
    """ "2 .mp4.part, 3 .wmv, such as a/b.wmv": the `files` that look like videos; "" if none does."""
    counts: Counter[str] = Counter()
    example = None
    for path in files:
        if PARTIAL_NAME not in path.parts and (kind := left_out_kind(path)):
            counts[kind] += 1
            example = min(example or path, path)
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{found}, such as {example}" if found else ""
