"""Step 1: follow the face through a video and write it as `cropped_video.mp4`, 224x224, steady and square.

    python -m preprocess.crop_faces --input video.mp4 --output prepared
    python -m preprocess.crop_faces --dataset fakeavceleb --source RAW --output prepared

Writes OUTPUT/<path of the video>/cropped_video.mp4. `preprocess.prepare` does this and the other steps in one
pass and should be preferred; this command is for looking at one step.
"""

from __future__ import annotations

import bisect
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocess.faces.track import CropConfig
from preprocess.faces.tracker import FaceTracker
from preprocess.work.batch import BatchConfig, Job, find_jobs, run_batch
from utils.clip.files import LANDMARKS_NAME, NUM_LANDMARKS, VIDEO_NAME
from utils.config import opt, parse_command
from utils.errors import ClipError, NoFaceError, run_command
from utils.media.picture import Picture
from utils.media.video import VideoTimes, iterate_pictures, read_video_times

# (full frames, frames per second, folder for temporary files) -> as many frames, changed
PictureChange = Callable[[Iterator[Picture], Fraction, Path], Iterator[Picture]]
MAX_UNDECODED = 0.02  # share of frames that a damaged file may lack; the frame before takes their place


@dataclass(frozen=True, kw_only=True)
class CropReport:
    """What was seen of one video while its face was cropped."""

    times: VideoTimes
    width: int  # of the source as displayed
    height: int
    face_boxes: list[list[float]]  # x, y, side per frame; [] where the track does not reach
    frames_without_face: list[int]
    num_face_tracks: int

    @property
    def num_frames(self) -> int:
        return len(self.times.starts_s)


def frame_schedule(times: VideoTimes) -> np.ndarray:
    """(T,) index of the source frame that each frame of the crop shows.

    At a constant rate each frame is taken once. At a varying rate crop frame i shows the source frame nearest
    to i / fps, with fps the average rate, so that T stays the same.
    """
    count = len(times.starts_s)
    if times.constant:
        return np.arange(count)
    wanted = times.starts_s[0] + np.arange(count) / float(times.fps)
    after = np.clip(np.searchsorted(times.starts_s, wanted), 1, count - 1)
    nearer_before = wanted - times.starts_s[after - 1] <= times.starts_s[after] - wanted
    return after - nearer_before


def iterate_schedule(source: Path, times: VideoTimes) -> Iterator[Picture]:
    """The T pictures of the crop's frames, in order, in one decode pass.

    Raises ClipError if more than MAX_UNDECODED of the frames that the container lists cannot be decoded.
    """
    schedule = frame_schedule(times).tolist()
    # a frame's time may differ from the packet's in the last float digits
    starts_s = (times.starts_s - 1e-5).tolist()
    position, missing = 0, set()
    picture = None
    for time_s, decoded in iterate_pictures(source):
        index = bisect.bisect_right(starts_s, time_s) - 1
        while position < len(schedule) and schedule[position] < index:  # listed, but not decoded
            missing.add(schedule[position])
            yield picture or decoded
            position += 1
        picture = decoded
        while position < len(schedule) and schedule[position] <= index:
            yield picture
            position += 1
    if picture is None:
        raise ClipError(source, "no frame can be decoded; get the file again")
    missing.update(schedule[position:])
    if len(missing) > MAX_UNDECODED * len(schedule) + 1:
        raise ClipError(
            source, f"damaged: {len(missing)} of {len(schedule)} frames cannot be decoded; get the file again"
        )
    for _ in range(position, len(schedule)):
        yield picture


def crop_face(
    source: Path, folder: Path, times: VideoTimes, config: CropConfig, change: PictureChange | None = None
) -> CropReport:
    """Write `cropped_video.mp4` and `landmarks.npy` of the largest continuous face into `folder`.

    Decodes the video once and holds about a second of it. `folder` must exist and is used for temporary
    files. `change` is done to the full frames before anything else sees them. Raises ClipError if the video
    cannot be decoded, NoFaceError if no face is found in it.
    """
    num_frames = len(times.starts_s)
    tracker = FaceTracker(folder, num_frames=num_frames, fps=times.fps, config=config)
    width = height = 0
    pictures = iterate_schedule(source, times)
    if change is not None:
        pictures = change(pictures, times.fps, folder)
    for picture in pictures:
        width, height = picture.width, picture.height
        tracker.step(picture)
    track = tracker.finish()
    if track is None:
        raise NoFaceError(source, f"no face in any of its {num_frames} frames")
    track.video_path.rename(folder / VIDEO_NAME)
    write_landmarks(track.landmarks_path, folder / LANDMARKS_NAME, num_frames)
    track.landmarks_path.unlink()
    end = track.first_frame + len(track.boxes)
    boxes = [[round(value, 2) for value in box] for box in track.boxes]
    return CropReport(
        times=times,
        width=width,
        height=height,
        face_boxes=[[]] * track.first_frame + boxes + [[]] * (num_frames - end),
        frames_without_face=[*range(track.first_frame), *track.without_face, *range(end, num_frames)],
        num_face_tracks=tracker.num_tracks,
    )


def write_landmarks(raw: Path, path: Path, num_frames: int) -> None:
    """The .npy file from its bare numbers, without reading them all at once."""
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype("<f4")),
        "fortran_order": False,
        "shape": (num_frames, NUM_LANDMARKS, 2),
    }
    with path.open("wb") as target, raw.open("rb") as numbers:
        np.lib.format.write_array_header_1_0(target, header)
        shutil.copyfileobj(numbers, target)


@dataclass(frozen=True, kw_only=True)
class CropFacesConfig(CropConfig, BatchConfig):
    """python -m preprocess.crop_faces"""

    overwrite: bool = opt(False, "crop anew where a crop is there already")

    def __post_init__(self) -> None:
        CropConfig.__post_init__(self)
        BatchConfig.__post_init__(self)


def crop_job(job: Job, config: CropFacesConfig) -> str:
    """One video of the command: "done" or "already there"."""
    if (job.folder / VIDEO_NAME).is_file() and not config.overwrite:
        return "already there"
    crop_face(job.source, job.scratch, read_video_times(job.source), config)
    job.install(VIDEO_NAME)
    return "done"


def main() -> int:
    config = parse_command(CropFacesConfig, __doc__)
    return run_batch(find_jobs(config), crop_job, config)


if __name__ == "__main__":
    run_command(main)
