"""One clip as the listings have it. PyTorch is not imported: listing, preparing and auditing need none of it.

Labels everywhere: 1 = fake, 0 = real, None = unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

INPUTS = frozenset({"video", "sound", "landmarks"})  # the signals of a clip
# of Clip.emotion, in the order of RAVDESS
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One prepared clip of a data set and all that its metadata says of it."""

    clip_id: str  # unique and stable: "<dataset>/<path of the clip below the data root>"
    place: str  # path of `folder`; a million Path objects would take 0.4 GB more
    label: int  # 1 if the picture or the sound is fake
    video_label: int | None  # None: the data set does not say
    audio_label: int | None
    category: str  # the data set's own class of forgery, e.g. "FakeVideo-RealAudio"
    method: str  # e.g. "wav2lip", "real"
    identity: str  # the person on screen, e.g. "fakeavceleb/id00076": splits are disjoint in it
    source_ids: tuple[str, ...]  # whose faces or voices were put in; () if nobody's
    target_id: str  # whose body and background are seen; the same as the person on screen for a real clip
    pair_key: str  # the real clip (or its person) that this one was made from
    stratum: str  # what a split should balance, e.g. "African/men"
    dataset: str
    split: str | None = None  # as the data set's own files say; None: they do not
    split_group: str = ""  # what a split must not tear apart, e.g. a pair of persons; "": the identity
    # (start, end) in seconds of what was forged; None: the whole clip, if its label says fake
    video_fake_segments: tuple[tuple[float, float], ...] | None = None
    audio_fake_segments: tuple[tuple[float, float], ...] | None = None
    # what `identity` names: a "person" or, where persons are unknown, the "family" of a clip and the fakes
    # made from it, or the "clip" itself
    identity_is: str = "person"
    # files of a folder of frames, in their order (see utils/clip/frame_folders.py); None: a prepared clip
    frames: tuple[str, ...] | None = None
    source_video: str = ""  # the recording that it was cut from, e.g. a YouTube video; "": unknown
    emotion: str | None = None  # what the person plays, of EMOTIONS; None: the data set does not say

    @property
    def folder(self) -> Path:
        """The clip folder (see utils/clip/files.py)."""
        return Path(self.place)

    @property
    def persons(self) -> tuple[str, ...]:
        """Everybody whose face, body or voice is in the clip."""
        return (self.identity, *self.source_ids)

    @property
    def unit(self) -> str:
        """What a drawn split keeps together."""
        return self.split_group or self.identity
