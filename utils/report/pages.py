"""Self-contained HTML pages: templates on a common base (templates/page.html), plots and pictures included.

Names of clips, persons and files are only ever text: templates escape them, plots do not parse formulas, and
the page's own policy forbids scripts and anything fetched from elsewhere.

A plot is drawn once, in the colours `INK`, `LINE`, `SOFT`, `REAL_COLOR` and `FAKE_COLOR`. The PNG has them on
white; in the page they become CSS variables, so a plot follows the light or dark mode.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.files import write_atomically, write_text
from utils.names import one_line, readable

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

TEMPLATES = Path(__file__).with_name("templates")
INK, LINE, SOFT = "#1d2329", "#d8dee4", "#8b959e"
REAL_COLOR, FAKE_COLOR = "#2a6f97", "#c1440e"
PAGE_COLORS = {
    INK: "currentColor",
    LINE: "var(--line)",
    SOFT: "var(--mid)",
    REAL_COLOR: "var(--real)",
    FAKE_COLOR: "var(--fake)",
}
COLORS = re.compile("|".join(map(re.escape, PAGE_COLORS)))
MAX_DRAWN = 36  # letters of a name in a plot
STYLE: dict[RcKeyType, Any] = {  # for @rc_context(STYLE)
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # names of data sets and methods are not formulas
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text
}
DPI, BAND_INCHES = 150, 0.3  # of a PNG; of the text below it
_STAMP: ContextVar[str] = ContextVar("stamp", default="")
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def write_page(path: Path, template: Path, **context: Any) -> None:
    """Render a template (it may extend `page.html` and import `parts.html`) and write it atomically.

    Values are escaped, and characters that HTML does not allow are replaced. Raises jinja2.UndefinedError if
    the template uses a name that is not in `context`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, readable(environment.get_template(template.name).render(**context)))


def drawn_name(name: str) -> str:
    """A name from a data set as it is drawn in a plot: one line of at most MAX_DRAWN letters."""
    shown = one_line(name, MAX_DRAWN)
    # a legend leaves out labels that begin with an underscore
    return f"\u200b{shown}" if shown.startswith("_") else shown


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches and its axes, row by row; `options` go to Figure.subplots."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def jpeg_data_url(picture: npt.NDArray[np.uint8], side: int, quality: int) -> str:
    """A picture (H, W, 3) RGB as the "data:" URL of a JPEG of `side` x `side` pixels."""
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


@contextlib.contextmanager
def stamped(text: str) -> Iterator[None]:
    """While active, plots written as PNG say `text` below: a picture travels without its page."""
    before = _STAMP.set(text)
    try:
        yield
    finally:
        _STAMP.reset(before)


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """The figure as a picture (H, W, 3) BGR, drawn once: `savefig` draws it twice."""
    figure.set_dpi(DPI)
    figure.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 2::-1]


def _write_png(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, above the text of `stamped`."""
    pictures = [_pixels(figure)]
    if text := _STAMP.get():
        width = figure.get_size_inches()[0]
        band = Figure(figsize=(width, BAND_INCHES))
        size = min(9.0, 72 * width / (0.62 * len(text)))  # points; a letter is about 0.6 of them wide
        style = {"fontsize": size, "color": FAKE_COLOR, "fontweight": "bold"}
        band.text(0.5, 0.5, text, ha="center", va="center", **style)
        pictures.append(_pixels(band))
    smallest = (cv2.IMWRITE_PNG_COMPRESSION, 9)
    path.write_bytes(cv2.imencode(".png", np.concatenate(pictures), smallest)[1].tobytes())


def save_plot(figure: Figure, path: Path, alt: str) -> Markup:
    """Write a figure as PNG and return it as SVG for a page; `alt` describes it in words."""
    write_atomically(path, lambda partial: _write_png(partial, figure))
    figure.set_layout_engine("none")  # all has its place
    buffer = io.BytesIO()
    # the salt makes the ids inside reproducible, and different from those of the page's other plots
    with rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_for_page(buffer.getvalue(), alt))


def _for_page(svg: bytes, alt: str) -> str:
    """SVG file -> element of an HTML page, without fixed size, style, or ids that affect the page."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}:
                parent.remove(child)
        if parent.tag == f"{{{SVG}}}g":
            parent.attrib.pop("id", None)
    width = root.attrib.pop("width")
    root.attrib.pop("height", None)
    for element in root.iter():  # attributes only: a name in the text may look like a colour
        for name, value in element.attrib.items():
            element.set(name, COLORS.sub(lambda found: PAGE_COLORS[found[0]], value))
    root.attrib |= {"class": "plot", "role": "img", "aria-label": readable(alt), "data-width": width}
    return ElementTree.tostring(root, encoding="unicode")
