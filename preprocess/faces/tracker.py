"""All faces of a video in one pass: when to detect, which face belongs to which track, when tracks end.

A track ends at a hard cut, or when its face is lost for long. If the same person comes back to the same
place before a cut, the largest face's track goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from preprocess.faces.cuts import FLASH_S, WHOLE, Place, find_cuts
from preprocess.faces.finder import Face, FaceDetector
from preprocess.faces.track import KEPT_SIDE, CropConfig, FaceTrack, Pose, distance, pose_of_detection
from utils.media.picture import Picture

# parts of a tile -> how often the frame is searched in such tiles while no face is in sight: at 25 frames per
# second, both together take about as long as Face Mesh on every frame
TILES_EVERY_S = {2: 0.2, 4: 1.0}
IDLE_AFTER_S = 2.0  # after this time without a face, only one frame in RETRY_FRAMES is searched
RETRY_FRAMES = 3  # a lost face is searched for in each of the first RETRY_FRAMES frames, then in every third
# Searches for further faces while one is in sight become half as frequent after this number of searches
# without a new face, if only the largest face is kept: a search takes as long as Face Mesh on three frames.
SEARCHES_IN_VAIN = 2
COUNTED_FROM_S = 0.2  # a face that is seen for a shorter time is not counted
MAX_AWAY = 4  # ended tracks, the largest ones, whose faces may come back


class FaceTracker:
    """Follows the faces of one video, frame by frame, in bounded memory.

    It keeps the largest track, padded to the length of the video, and black while its face is away; or, with
    `max_tracks`, that number of the largest tracks, each as long as its face is there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_frames: int,
        fps: Fraction,
        config: CropConfig,
        max_tracks: int | None = None,
        track_type: Callable[..., FaceTrack] = FaceTrack,
    ) -> None:
        self._folder, self._fps, self._config = folder, fps, config
        self._track_type = track_type
        self._rate = float(fps)  # a Fraction would take microseconds, several times per frame
        self._idle_after, self._detect_every, self._max_gap = map(
            self._frames, (IDLE_AFTER_S, config.detect_every_s, config.max_gap_s)
        )
        self._detector = FaceDetector(config.landmark_backend)
        self._live: list[FaceTrack] = []
        self._pad_to = num_frames if max_tracks is None else None
        self._max_tracks = max_tracks or 1
        self._ended: list[FaceTrack] = []  # the largest ones, and those whose face may come back
        self._away: list[FaceTrack] = []  # the latter
        self._num_started = self._in_vain = 0
        self._frame = self._last_in_sight = 0
        self._tiles_due = dict.fromkeys(TILES_EVERY_S, 0)
        self.cuts: list[int] = []  # frames with which another shot begins, of any face
        self.num_frames_with_face = 0  # any
        self.num_tracks = 0  # faces that lasted long enough to be counted
        self.width = self.height = 0  # of the displayed frames
        self.interlaced = False  # whether any of them was

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds * self._rate))

    def follow(self, pictures: Iterable[Picture]) -> list[FaceTrack]:
        """The tracks in all frames of the video that are kept, the largest first, their files complete."""
        for picture, cut_off in find_cuts(pictures, self._frames(FLASH_S), self._places):
            self.width, self.height = picture.width, picture.height
            self.interlaced |= picture.interlaced
            for track in cut_off:
                if track is not None and (None in cut_off or self._detect_around(track, picture)):
                    self._end(track)
                    self.cuts = sorted({*self.cuts, self._frame})
            if None in cut_off:
                self._away.clear()  # of another shot: nobody comes back
                self._drop_small()
            self._step(picture, new_shot=bool(cut_off))
        while self._live:
            self._end(self._live[0])
        self._away.clear()
        self._drop_small()
        for track in self._ended:
            track.finish()
        return self._ended

    def _places(self, picture: Picture) -> dict[FaceTrack | None, Place]:
        """Where cuts are looked for: around each face, which ends its track, and as a whole (None).

        If only the surroundings change, and there is still a face, it is another person's in front of the
        same wall, or the same person has jumped: then the track goes on.
        """
        size = picture.width, picture.height
        places: dict[FaceTrack | None, Place] = {None: WHOLE} if self._live or self._away else {}
        for track in self._live:
            half = KEPT_SIDE / 2 * track.pose.height
            places[track] = Place.around(track.pose.x, track.pose.y, half, *size)
        return places

    def _step(self, picture: Picture, *, new_shot: bool) -> None:
        for track in self._live:
            if not track.look(picture) and (
                track.missing < RETRY_FRAMES or track.missing % RETRY_FRAMES == 0
            ):
                self._look_around(track, picture)
        in_sight = any(track.sees for track in self._live)
        if in_sight:
            self._last_in_sight = self._frame
            rarely = self._pad_to and self._in_vain >= SEARCHES_IN_VAIN
            every = 2 * self._detect_every if rarely else self._detect_every
        else:
            idle = self._frame - self._last_in_sight > self._idle_after
            every = RETRY_FRAMES if idle else 1
        if new_shot:
            self._tiles_due = dict.fromkeys(TILES_EVERY_S, 0)
        if new_shot or self._frame % every == 0:
            num_started = self._num_started
            self._look_for_new_faces(picture)
            found = self._num_started > num_started
            self._in_vain = self._in_vain + 1 if in_sight and not found else 0
        self.num_frames_with_face += any(track.sees for track in self._live)
        for track in self._live:
            track.keep()
        for track in self._live[:]:
            if track.missing > self._max_gap or self._follows_another(track):
                self._end(track)
        self._frame += 1

    def _look_around(self, track: FaceTrack, picture: Picture) -> None:
        """Zoom in where a face was lost; a face that only the detector sees keeps the track alive."""
        lost_at = track.pose
        faces = self._detect_around(track, picture)
        others = [other.pose for other in self._live if other is not track and other.sees]
        poses = [
            pose
            for pose in map(pose_of_detection, faces)
            if distance(pose, lost_at) < 1.2 * lost_at.height
            and 0.5 < pose.height / lost_at.height < 2
            and all(distance(pose, other) > 0.5 * other.height for other in others)
        ]
        if poses:
            track.look(picture, near=min(poses, key=lambda pose: distance(pose, lost_at)))

    def _detect_around(self, track: FaceTrack, picture: Picture) -> list[Face]:
        return self._detector.around(picture, track.pose.x, track.pose.y, 4 * track.pose.height)

    def _look_for_new_faces(self, picture: Picture) -> None:
        """Search the whole frame, and if no track sees its face then, in tiles when these are due."""
        self._start_where_new(self._detector.in_frame(picture), picture)
        for parts, every_s in TILES_EVERY_S.items():
            if any(track.sees for track in self._live):
                return
            if self._frame >= self._tiles_due[parts]:
                self._tiles_due[parts] = self._frame + self._frames(every_s)
                self._start_where_new(self._detector.in_tiles(picture, parts), picture)

    def _start_where_new(self, faces: list[Face], picture: Picture) -> None:
        for face in faces:
            pose = pose_of_detection(face)
            if face.score >= self._config.min_detection_score and all(
                distance(pose, track.pose) > 0.7 * pose.height for track in self._live
            ):
                self._start(pose, picture)

    def _start(self, pose: Pose, picture: Picture) -> None:
        """Begin a track if Face Mesh sees the face, too; of `max_faces` tracks, the smallest makes room."""
        if len(self._live) >= self._config.max_faces:
            smallest = min(self._live, key=lambda track: track.pose.height)
            if pose.height**2 < 2 * smallest.pose.height**2:
                return
            self._end(smallest)
        stem = self._folder / f"track_{self._num_started}"
        track = self._track_type(
            stem,
            first_frame=self._frame,
            fps=self._fps,
            pose=pose,
            config=self._config,
            pad_to=self._pad_to,
            find_earlier=self._come_back,
        )
        if track.look(picture) and not any(_same_place(track, other) for other in self._live):
            self._live.append(track)
            self._num_started += 1

    def _follows_another(self, track: FaceTrack) -> bool:
        """Whether a longer track follows the same face."""
        return any(
            other is not track and other.num_seen >= track.num_seen and _same_place(track, other)
            for other in self._live
        )

    def _come_back(self, track: FaceTrack) -> FaceTrack | None:
        """The ended track, now no longer kept, that `track` goes on with; None if it is of a new face."""
        earlier = next((ended for ended in self._away if track.continues(ended)), None)
        if earlier is not None:
            self._away.remove(earlier)
            self._ended.remove(earlier)
            self.num_tracks -= 1  # it is counted when `track` ends
            self.cuts = [frame for frame in self.cuts if frame != earlier.end_frame]
        return earlier

    def _end(self, track: FaceTrack) -> None:
        self._live.remove(track)
        track.end()
        self._ended = sorted([*self._ended, track], key=lambda ended: -ended.area)
        if track.num_seen >= self._frames(COUNTED_FROM_S):
            self.num_tracks += 1
            if self._pad_to:
                self._away = sorted([*self._away, track], key=lambda ended: -ended.area)[:MAX_AWAY]
        self._drop_small()

    def _drop_small(self) -> None:
        """Discard all but the largest of the ended tracks, and those whose face may come back."""
        for track in self._ended[self._max_tracks :]:
            if track not in self._away:
                self._ended.remove(track)
                track.discard()


def _same_place(track: FaceTrack, other: FaceTrack) -> bool:
    return distance(track.pose, other.pose) < 0.4 * max(track.pose.height, other.pose.height)
