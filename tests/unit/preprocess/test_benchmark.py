"""What the benchmark of preparing times is the preparation itself."""

from preprocess.clip.make import Change
from tests.benchmarks.preprocess import decode_plainly, prepare, prepared_crops
from tests.moving_face import clicks, moving_face, write_video


def test_it_prepares_a_video_with_and_without_a_change(tmp_path):
    video = write_video(tmp_path / "clip.mp4", moving_face(12), waveform=clicks(12 / 25, (0.2,)))
    marked = []

    def mark(pictures, fps, folder):
        for picture in pictures:
            marked.append(picture)
            yield picture

    assert prepare(video) == prepare(video, Change(settings={}, pictures=mark)) == 12
    assert len(marked) == len(list(decode_plainly(video))) == len(prepared_crops(video)) == 12
