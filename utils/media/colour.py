"""What an ordinary screen shows of pictures in a wider colour space: HDR (HLG, PQ) and BT.2020.

A picture becomes display light in BT.709 primaries, in which 203 cd/m2 are white (ITU-R BT.2408), brighter
light is white, too, and then what a screen with gamma 2.4 (BT.1886) takes for it. Its colours are looked up
in a table.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import av

# FFmpeg's numbers (ITU-T H.273): transfer characteristics and colour primaries
TRANSFERS = {1: "bt709", 6: "smpte170m", 13: "srgb", 14: "bt2020-10", 15: "bt2020-12", 16: "pq", 18: "hlg"}
PRIMARIES = {1: "bt709", 5: "bt470bg", 6: "smpte170m", 9: "bt2020", 12: "p3-d65"}
HDR_WHITE_CD_M2 = 203.0  # BT.2408, diffuse white
_HLG, _PQ = 18, 16
_HLG_PEAK_CD_M2, _PQ_PEAK_CD_M2 = 1000.0, 10_000.0
# linear light from wider primaries to BT.709's; BT.2087 for BT.2020
_TO_BT_709 = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    12: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}
_LUMA_BT_2020 = (0.2627, 0.6780, 0.0593)
_TABLE_SIZE = 33  # points per colour; in between is interpolated


def is_wide(transfer: int, primaries: int) -> bool:
    """Whether an ordinary screen cannot show such values as they are."""
    return transfer in (_HLG, _PQ) or primaries in _TO_BT_709


class Colour(NamedTuple):
    """How a file codes its colours, by FFmpeg's numbers."""

    transfer: int = 2  # unspecified
    primaries: int = 2
    depth: int = 8  # bits per sample

    @classmethod
    def of(cls, source: Any) -> Colour:
        """The colours of a frame or a codec's context."""
        components = source.format.components if source.format is not None else ()
        return cls(source.color_trc, source.color_primaries, max((c.bits for c in components), default=8))

    def facts(self) -> dict[str, Any]:
        """For clip.json: names and depth; empty for nearly all files, 8 bit for ordinary screens."""
        if not is_wide(self.transfer, self.primaries) and self.depth == 8:
            return {}
        return {
            "transfer": TRANSFERS.get(self.transfer, str(self.transfer)),
            "primaries": PRIMARIES.get(self.primaries, str(self.primaries)),
            "depth": self.depth,
        }


def shown_on_a_screen(signal: npt.NDArray[np.float64], colour: Colour) -> npt.NDArray[np.float64]:
    """(..., 3) R'G'B' in [0, 1] as coded -> R'G'B' in [0, 1] for an ordinary screen."""
    light = _to_light(signal, colour.transfer)
    if matrix := _TO_BT_709.get(colour.primaries):
        light = light @ np.transpose(matrix)
    return np.asarray(np.clip(light, 0, 1) ** (1 / 2.4))


def _to_light(signal: npt.NDArray[np.float64], transfer: int) -> npt.NDArray[np.float64]:
    """Display light, 1 = white: BT.2100's two systems, and BT.1886 for all others."""
    if transfer == _PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        root = signal ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
        return np.asarray(light * (_PQ_PEAK_CD_M2 / HDR_WHITE_CD_M2))
    if transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        luma = np.maximum(scene @ np.array(_LUMA_BT_2020), 1e-9)[..., None]
        return np.asarray(luma**0.2 * scene * (_HLG_PEAK_CD_M2 / HDR_WHITE_CD_M2))
    return np.asarray(signal**2.4)


class ColourMapper:
    """Maps the frames of one video, or parts of them, to yuv420p in BT.601, as ordinary screens show them.

    A size is slow the first time (0.1 s); the last few sizes are kept.
    """

    def __init__(self) -> None:
        self._graph_of = functools.lru_cache(maxsize=8)(_new_graph)

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        size = frame.width, frame.height
        return self._graph_of(
            *size, frame.format.name, frame.colorspace, frame.color_range, Colour.of(frame)
        )(frame)


def _new_graph(
    width: int, height: int, format_name: str, colorspace: int, color_range: int, colour: Colour
) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """FFmpeg's filters: to R'G'B' by the file's matrix, through the table, to yuv420p."""
    from av import VideoFormat
    from av.filter import Graph

    grid = np.linspace(0, 1, _TABLE_SIZE)
    blue, green, red = np.meshgrid(grid, grid, grid, indexing="ij")  # red changes fastest
    table = shown_on_a_screen(np.stack([red, green, blue], axis=-1).reshape(-1, 3), colour)
    with tempfile.NamedTemporaryFile("w", suffix=".cube") as file:
        file.write(f"LUT_3D_SIZE {_TABLE_SIZE}\n")
        np.savetxt(file, table, fmt="%.6f")
        file.flush()
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=width,
            height=height,
            format=VideoFormat(format_name, width, height),
            time_base=Fraction(1, 25),
        )
        steps = (
            source,
            graph.add(
                "scale",
                in_color_matrix="bt2020" if colorspace in (9, 10) else "auto",
                in_range="pc" if color_range == 2 else "tv",
            ),
            graph.add("format", "gbrp10le"),
            graph.add("lut3d", file=file.name, interp="tetrahedral"),
            graph.add("scale", out_color_matrix="bt601", out_range="tv"),
            graph.add("format", "yuv420p"),
            graph.add("buffersink"),
        )
        graph.link_nodes(*steps).configure()

    def run(frame: av.VideoFrame) -> av.VideoFrame:
        graph.vpush(frame)
        return graph.vpull()

    return run
