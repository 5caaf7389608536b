"""HDR and wide colours as an ordinary screen shows them, against the inverse of the standards' formulas."""

import av
import numpy as np
import pytest

from tests.numbered_video import numbered_frame
from utils.media.colour import Colour, is_wide, shown_on_a_screen
from utils.media.picture import Picture, PictureConverter
from utils.media.times import read_video_times
from utils.media.video import iterate_frames

TO_2020 = np.linalg.inv(
    np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
)
LUMA = np.array([0.2627, 0.6780, 0.0593])
LUMA_OF = {1: np.array([0.2126, 0.7152, 0.0722]), 5: np.array([0.299, 0.587, 0.114]), 9: LUMA}
SDR, PQ, HLG = 1, 16, 18
LIMITED, FULL = 1, 2


def coded(image, transfer):
    """(H, W, 3) uint8 as a screen shows it -> R'G'B' in BT.2020 of that transfer, white at 203 cd/m2."""
    light = (image / 255.0) ** 2.4 @ TO_2020.T
    if transfer == PQ:
        power = (np.clip(light, 0, None) * 203 / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    if transfer == HLG:
        light = np.clip(light, 0, None) * 0.203
        scene = light * np.maximum(light @ LUMA, 1e-9)[..., None] ** (1 / 1.2 - 1)
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    return np.clip(light, 0, 1) ** (1 / 2.4)


def as_frame(signal, transfer, matrix=9, levels=LIMITED, pix_fmt="yuv420p10le"):
    """A frame of R'G'B' in [0, 1], in BT.2020 unless another matrix is asked for."""
    step, kind = (4, "<u2") if "10" in pix_fmt else (1, "u1")
    black, luma_range, chroma_range = (16, 219, 224) if levels == LIMITED else (0, 255, 255)
    luma = signal @ LUMA_OF[matrix]
    planes = [luma * luma_range + black]
    for channel in (2, 0):
        plane = (signal[..., channel] - luma) / (2 - 2 * LUMA_OF[matrix][channel]) * chroma_range + 128
        planes.append(plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean(axis=(1, 3)))
    frame = av.VideoFrame(signal.shape[1], signal.shape[0], pix_fmt)
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.zeros((target.height, target.line_size // np.dtype(kind).itemsize), kind)
        rows[:, : plane.shape[1]] = np.clip(plane * step, 0, 256 * step - 1).round()
        target.update(rows.tobytes())
    frame.colorspace, frame.color_range = matrix, levels
    frame.color_primaries, frame.color_trc = matrix if matrix != 5 else 6, transfer
    return frame


@pytest.mark.parametrize("transfer", [SDR, PQ, HLG])
def test_a_picture_in_bt_2020_looks_as_on_an_ordinary_screen(transfer):
    image = numbered_frame(21)
    image[40:56] = np.linspace(20, 250, image.shape[1])[None, :, None]  # greys
    picture = Picture(as_frame(coded(image, transfer), transfer), PictureConverter())
    away = np.abs(picture.rgb().astype(int) - image)
    assert np.median(away) <= 2
    assert away[10:36, 12:50].max() <= 8  # red
    assert away[42:54].mean() <= 4
    untouched = Picture(picture._stored_frame, PictureConverter())
    for x0, y0, x1, y1 in ((8, 8, 56, 40), (0, 0, 128, 96)):
        region, cut = untouched.region(x0, y0, x1, y1), untouched.to_rgb(untouched.cut(x0, y0, x1, y1))
        for part in (region, cut):
            assert np.abs(part.astype(int) - image[y0:y1, x0:x1]).mean() < 4
    small = untouched.to_rgb(untouched.cut(8, 8, 56, 40, shrink=2)).astype(int)
    assert np.abs(small - image[8:40, 8:56].reshape(16, 2, 24, 2, 3).mean(axis=(1, 3))).mean() < 6
    assert (
        np.abs(untouched.thumbnail(64).astype(int) - image.reshape(48, 2, 64, 2, 3).mean((1, 3))).mean() < 5
    )
    assert untouched._on_screen is None  # mapping all of it takes several times as long


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_part_of_a_turned_wide_picture_looks_as_the_same_part_of_the_whole(turns):
    frame = as_frame(coded(numbered_frame(21), HLG), HLG)
    converter = PictureConverter()
    converter._orientation = turns, False  # as a phone's file says with its first frame
    whole = Picture(frame, converter).rgb().astype(int)
    picture = Picture(frame, converter)
    assert (picture.width, picture.height) == whole.shape[1::-1]
    for x0, y0, x1, y1 in ((8, 20, 80, 84), (0, 0, picture.width, picture.height)):
        shown = picture.to_rgb(picture.cut(x0, y0, x1, y1))
        assert np.abs(shown - whole[y0:y1, x0:x1]).mean() < 3


@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "levels"),
    [
        ("yuv420p", 1, LIMITED),
        ("yuv420p", 1, FULL),
        ("yuvj420p", 1, FULL),
        ("yuv420p10le", 1, LIMITED),
        ("yuv420p", 5, FULL),
        ("yuv420p", 5, LIMITED),
    ],
)
def test_a_picture_has_the_same_colours_in_each_encoding(pix_fmt, matrix, levels):
    image = numbered_frame(21)
    image[40:56] = np.linspace(20, 250, 16).repeat(8).astype(np.uint8)[None, :, None]  # greys
    image[8:40, 64:120] = 50, 170, 80
    frame = as_frame(image / 255, SDR, matrix, levels, pix_fmt)
    whole, part = (Picture(frame, PictureConverter()) for _ in range(2))
    region = part.region(8, 8, 124, 56)
    for shown in (whole.rgb()[8:56, 8:124], region, part.to_rgb(part.cut(8, 8, 124, 56))):
        away = shown.astype(int) - image[8:56, 8:124]
        for patch in (away[4:28, 4:44], away[4:28, 60:108], away[36:44]):  # chroma bleeds over the edges
            assert np.abs(patch).max() <= 4  # of 10 bit: the scaler rounds down, up to three times
            assert np.abs(patch).mean() <= 3


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_light_above_white_is_white_and_black_is_black(transfer):
    values = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    shown = shown_on_a_screen(values, Colour(transfer, 9, 10))
    np.testing.assert_allclose(shown, values, atol=0.02)


@pytest.mark.parametrize(("container", "codec"), [("mov", "libx265"), ("matroska", "libsvtav1")])
def test_a_files_transfer_primaries_and_depth_are_told(tmp_path, container, codec):
    path = tmp_path / "clip"
    quiet = {"preset": "ultrafast", "crf": "12", "x265-params": "log-level=none:pools=none"}
    with av.open(f"file:{path}", "w", format=container) as out:
        stream = out.add_stream(
            codec, rate=25, options=quiet if codec == "libx265" else {"preset": "12", "crf": "12"}
        )
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 9, 1, 9, PQ
        for number in range(5):
            frame = as_frame(coded(numbered_frame(number), PQ), PQ)
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert read_video_times(path).colour == {"transfer": "pq", "primaries": "bt2020", "depth": 10}
    for number, (_, image) in enumerate(iterate_frames(path)):
        assert np.abs(image.astype(int) - numbered_frame(number)).mean() < 8


def test_ordinary_files_have_nothing_to_tell():
    assert Colour(2, 2, 8).facts() == Colour(1, 1, 8).facts() == Colour(6, 6, 8).facts() == {}
    assert Colour(1, 1, 10).facts() == {"transfer": "bt709", "primaries": "bt709", "depth": 10}
    assert not is_wide(1, 1)
