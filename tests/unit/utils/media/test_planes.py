"""Pictures as brightness and colour planes: where things lie in them, and what colour they have."""

from __future__ import annotations

import av
import numpy as np
import pytest

from tests.moving_face import moving_face, turn_by_metadata, write_video
from utils.media.picture import Picture, PictureConverter
from utils.media.planes import Coding, Planes, new_frame
from utils.media.video import iterate_pictures

CONVERTER = PictureConverter()


def ramp(width: int, height: int, step: int = 2) -> Planes:
    """Planes that rise by one grey level in `step` pixels of the picture: y and u rightwards, v downwards."""
    columns = np.arange(width) + 0.5
    half_columns, half_rows = 2 * np.arange(width // 2) + 1, 2 * np.arange(height // 2) + 1
    return Planes(
        np.tile(columns / step, (height, 1)).round().astype(np.uint8),
        np.tile(half_columns / step, (height // 2, 1)).round().astype(np.uint8),
        np.tile(half_rows[:, None] / step, (1, width // 2)).round().astype(np.uint8),
    )


def drawn_square(planes: Planes, x: float, y: float, side: float, size: int) -> Planes:
    target = Planes.of_frame(new_frame(size, size))
    planes.draw_square(x, y, side, target)
    return target


@pytest.mark.parametrize("size", [224, 90])  # 90: rows of a frame are then padded
def test_a_square_shows_each_plane_at_the_same_place(size):
    x, y, side = 31.37, 20.81, 330.2
    square = drawn_square(ramp(480, 400), x, y, side, size)
    assert (square.width, square.height) == (size, size)
    places = (np.arange(size) + 0.5) * side / size / 2
    half_places = (np.arange(size // 2) + 0.5) * side / size
    np.testing.assert_allclose(square.y, np.tile(x / 2 + places, (size, 1)), atol=1.1)
    np.testing.assert_allclose(square.u, np.tile(x / 2 + half_places, (size // 2, 1)), atol=1.1)
    np.testing.assert_allclose(square.v, np.tile(y / 2 + half_places[:, None], (1, size // 2)), atol=1.1)
    # rounding aside, not a tenth of a pixel off
    assert abs(float((square.y - (x / 2 + places)).mean())) < 0.1
    assert abs(float((square.u - (x / 2 + half_places)).mean())) < 0.1


# luma's shares of red and blue, as ITU-R BT.601 and BT.709 print them
SHARES = {5: (0.299, 0.114), 1: (0.2126, 0.0722)}


def decoded_colours(planes: Planes, matrix: int, full_range: bool) -> np.ndarray:
    """(h, w, 3) R'G'B' in [0, 1] by the standards' formulas, not cut off at 0 and 1."""
    y, u, v = (
        planes.y.astype(float),
        *(plane.repeat(2, 0).repeat(2, 1) - 128.0 for plane in (planes.u, planes.v)),
    )
    y, u, v = (y / 255, u / 255, v / 255) if full_range else ((y - 16) / 219, u / 224, v / 224)
    red_share, blue_share = SHARES[matrix]
    red, blue = y + 2 * (1 - red_share) * v, y + 2 * (1 - blue_share) * u
    green = (y - red_share * red - blue_share * blue) / (1 - red_share - blue_share)
    return np.stack([red, green, blue], axis=-1)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 5])
def test_a_square_is_drawn_in_bt_601_whatever_its_source_is_coded_in(matrix, full_range):
    rng = np.random.default_rng(0)
    y, *chroma = (rng.integers(60, 190, (side, side), np.uint8) for side in (64, 32, 32))
    planes = Planes(y, *chroma, coding=Coding(matrix, full_range))
    drawn = drawn_square(planes, 0, 0, 64, 64)
    expected = decoded_colours(planes, matrix, full_range)
    away = np.abs(decoded_colours(drawn, 5, False) - expected) * 255
    # half a level of luma, of what the colours add to it, and of chroma, which counts up to 2.0 times in blue
    assert away.max() < 2.5
    assert away.mean() < 1
    assert planes.shrunk(2).coding == planes.part(0, 0, 8, 8).coding == planes.coding


def test_outside_a_square_repeats_the_edge():
    square = drawn_square(ramp(100, 100), -40, -40, 180, 180)
    np.testing.assert_array_equal(square.y[:, :38], square.y[:, :1] + np.zeros((1, 38), np.uint8))
    assert (square.y[:, :38] == 0).all()
    assert (square.y[:, 142:] == square.y[90, 141]).all()


@pytest.mark.parametrize(("width", "height"), [(96, 60), (94, 62), (6, 7 * 6)])
def test_shrinking_takes_means_of_whole_blocks(width, height):
    planes = ramp(width, height)
    small = planes.shrunk(3)
    for plane, shrunk in zip(planes, small, strict=True):
        rows, columns = shrunk.shape
        blocks = plane[: 3 * rows, : 3 * columns].reshape(rows, 3, columns, 3)
        np.testing.assert_allclose(shrunk, blocks.mean(axis=(1, 3)), atol=0.51)
    assert small.y.shape == (2 * small.u.shape[0], 2 * small.u.shape[1])
    assert small.u.shape == small.v.shape == (height // 6, width // 6)


def test_shrinking_leaves_one_block_at_least():
    assert [plane.shape for plane in ramp(4, 4).shrunk(3)] == [(2, 2), (1, 1), (1, 1)]


def test_planes_become_rgb_whatever_was_converted_before_and_after():
    pictures = [ramp(90, 58), ramp(90, 58, step=3), ramp(40, 30), ramp(90, 58)]
    converter = PictureConverter()
    converted = [converter.rgb(planes) for planes in pictures]
    for planes, image in zip(pictures, converted, strict=True):
        np.testing.assert_array_equal(image, PictureConverter().rgb(planes))
    assert (converted[0] != converted[1]).any()


def test_a_part_is_the_same_piece_of_every_plane():
    planes = ramp(90, 58)
    part = planes.part(10, 4, 40, 34)
    rgb = CONVERTER.rgb(planes).copy()
    np.testing.assert_array_equal(CONVERTER.rgb(part), rgb[4:34, 10:40])


def test_a_fourth_channel_changes_no_colour():
    planes, converter = ramp(90, 58), PictureConverter()
    rgb = converter.rgb(planes).copy()
    with_alpha = converter.rgb(planes, alpha=True)
    assert with_alpha.shape == (58, 90, 4)
    np.testing.assert_array_equal(with_alpha[..., :3], rgb)
    np.testing.assert_array_equal(converter.rgb(planes), rgb)


def colourful(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """A face before strong colours, which a wrong matrix or range would shift by 10 to 20 levels."""
    frames = []
    for frame in moving_face(count, size=size, face_height=90, path=lambda i: (120 + 5 * i, 110)):
        frame[: size[1] // 2, -40:] = (20, 200, 30)
        frame[size[1] // 2 :, -40:] = (210, 30, 40)
        frames.append(frame)
    return frames


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"colorspace": 1},
        {"pixel_format": "yuvj420p"},
        {"pixel_format": "yuv444p"},
        {"pixel_format": "yuvj444p", "colorspace": 1},
        {"pixel_format": "yuv422p"},
        {"pixel_format": "yuv420p10le"},
        {"codec": "mpeg4", "size": (321, 241)},
    ],
    ids=lambda options: "_".join(map(str, options.values())) or "plain",
)
def test_planes_show_the_colours_of_the_frame(tmp_path, degrees, options):
    """Whatever the matrix, range, layout and rotation of the file, a cut has BT.601's colours, 16 to 235."""
    options = dict(options)
    frames = colourful(2, options.pop("size", (320, 240)))
    path = write_video(tmp_path / "video.mp4", frames, **options)
    if degrees:
        turn_by_metadata(path, degrees)
    for _, picture in iterate_pictures(path):
        for x0, y0, x1, y1 in ((0, 0, picture.width // 2 * 2, picture.height // 2 * 2), (30, 50, 180, 202)):
            planes = picture.cut(x0, y0, x1, y1)
            assert (planes.width, planes.height) == (x1 - x0, y1 - y0)
            difference = np.abs(picture.to_rgb(planes).astype(int) - picture.region(x0, y0, x1, y1))
            assert np.median(difference) <= 1
            assert (difference > 8).mean() < 0.05  # at edges, where colour is halved


@pytest.mark.parametrize(
    "pixel_format", ["yuv422p", "yuv444p", "yuvj444p", "yuv440p", "yuv420p10le", "yuv422p10le", "yuv444p12le"]
)
def test_a_region_is_converted_as_in_the_whole_picture(pixel_format):
    """Whatever the resolution of the chroma and the depth, and without converting the whole."""
    (image,) = colourful(1, (320, 240))
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
    whole = Picture(frame, PictureConverter()).rgb()
    picture = Picture(frame, PictureConverter())
    for x0, y0, x1, y1 in ((0, 0, 320, 240), (31, 50, 180, 203), (200, 100, 320, 240)):
        region = picture.region(x0, y0, x1, y1)
        away = np.abs(region.astype(int) - whole[y0:y1, x0:x1])
        assert away[2:-2, 2:-2].max() <= 1  # at its edges the scaler has no further chroma to interpolate
        assert np.median(away) == 0
    assert picture._rgb is None


def test_planes_of_an_rgb_picture_are_cut_from_it():
    image = next(moving_face(1, size=(320, 240), face_height=90, path=lambda i: (120, 110)))
    picture = Picture.from_rgb(image, CONVERTER)
    planes = picture.cut(40, 20, 300, 220)
    assert np.abs(picture.to_rgb(planes).astype(int) - image[20:220, 40:300]).mean() < 3


def test_a_picture_that_another_thread_shows_is_cut_as_before(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_face(2, size=(160, 120), face_height=60), fps=25)
    cuts = []
    for look in (
        lambda picture: None,
        lambda picture: picture.for_thread(PictureConverter()).rgb(),
        Picture.rgb,
    ):
        _, picture = next(iterate_pictures(tmp_path / "clip.mp4"))
        look(picture)
        cuts.append(picture.cut(20, 10, 120, 110))
    untouched, shown_apart, shown = cuts
    for one, other in zip(untouched, shown_apart, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(untouched.y, shown.y)  # what a thread of its own spares it
