"""Frames by number, whatever the codec and its order of frames: compared with decoding the whole file."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from utils.clip.frames import open_crop, read_frames, read_video_header
from utils.errors import ClipError

NUM_FRAMES = 100
# name -> (file, codec, options, variable rate)
FILES = {
    "no B-frames": ("a.mp4", "libx264", {"bf": "0", "g": "12"}, False),
    "B-frames": ("a.mp4", "libx264", {"bf": "3", "g": "30"}, False),
    "open groups of pictures": (
        "a.mp4",
        "libx264",
        {"bf": "3", "g": "20", "x264-params": "open-gop=1"},
        False,
    ),
    "one key frame": ("a.mp4", "libx264", {"bf": "2", "g": "1000", "sc_threshold": "0"}, False),
    "variable rate": ("a.mp4", "libx264", {"bf": "0", "g": "25"}, True),
    "variable rate, B-frames": ("a.mp4", "libx264", {"bf": "3", "g": "25"}, True),
    "MPEG-4": ("a.mp4", "mpeg4", {"g": "15"}, False),
    "MPEG-4, B-frames": ("a.mp4", "mpeg4", {"g": "15", "bf": "2"}, False),
    "MPEG-4 in AVI": ("a.avi", "mpeg4", {"g": "15"}, False),
    "MPEG-4 in AVI, B-frames": ("a.avi", "mpeg4", {"g": "15", "bf": "2"}, False),
    "Matroska": ("a.mkv", "libx264", {"bf": "3", "g": "30"}, False),
    "Matroska, variable rate": ("a.mkv", "libx264", {"bf": "3", "g": "30"}, True),
    "every frame a key frame": ("a.avi", "mjpeg", {}, False),
}


def write(path, codec, options, variable):
    """A video whose frames all differ. With `variable`, frames last one to four ticks of 1/100 s."""
    rng = np.random.default_rng(3)
    gaps = rng.integers(1, 5, NUM_FRAMES) if variable else np.full(NUM_FRAMES, 4)
    noise = rng.integers(0, 60, (64, 64, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(100) if variable else Fraction(25))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options
        for index in range(NUM_FRAMES):
            image = np.roll(noise, (index, 2 * index), (0, 1)) + index
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")
            frame.pts = int(gaps[:index].sum()) if variable else index
            frame.time_base = Fraction(1, 100) if variable else Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("kind", FILES)
def test_a_window_is_what_decoding_the_whole_file_gives(tmp_path, kind):
    name, *how = FILES[kind]
    write(tmp_path / name, *how)
    with av.open(str(tmp_path / name)) as container:
        everything = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert len(everything) == NUM_FRAMES
    rng = np.random.default_rng(0)
    windows = [[0], [NUM_FRAMES - 1], [19, 20, 21], list(range(NUM_FRAMES)), [3, 3, 70]]
    windows += [sorted(rng.integers(0, NUM_FRAMES, 5).tolist()) for _ in range(6)]
    windows += [list(range(start, start + 15)) for start in range(1, 85, 17)]
    with open_crop(tmp_path / name) as crop:  # again and again from one open file
        for window in windows:
            np.testing.assert_array_equal(
                crop.read(np.array(window)), everything[window], err_msg=str(window)
            )
    for window in windows[5:9]:
        np.testing.assert_array_equal(read_frames(tmp_path / name, np.array(window)), everything[window])


def test_only_the_window_is_decoded(tmp_path, monkeypatch):
    write(tmp_path / "a.mp4", *FILES["no B-frames"][1:])
    with open_crop(tmp_path / "a.mp4") as crop:
        converted = []
        rgb = crop._rgb
        monkeypatch.setattr(crop, "_rgb", lambda frame: converted.append(frame.pts) or rgb(frame))
        decoded = []
        decode = crop._container.decode
        crop._container = CountingContainer(crop._container, decode, decoded)
        crop.read(np.arange(60, 70))
    assert len(converted) == 10
    assert len(decoded) < 10 + 12  # from the key frame before; there is one in every 12 frames at least


class CountingContainer:
    def __init__(self, container, decode, decoded):
        self.seek, self.demux, self.format = container.seek, container.demux, container.format
        self._decode, self._decoded = decode, decoded

    def decode(self, stream):
        for frame in self._decode(stream):
            self._decoded.append(frame)
            yield frame


def test_a_frame_that_is_not_there_is_an_error_with_its_number(tmp_path):
    write(tmp_path / "a.mp4", *FILES["B-frames"][1:])
    with pytest.raises(ClipError, match=f"has no frame {NUM_FRAMES}"):
        read_frames(tmp_path / "a.mp4", np.array([NUM_FRAMES - 1, NUM_FRAMES]))
    assert read_video_header(tmp_path / "a.mp4") == (25, NUM_FRAMES)
