"""HTML pages of one file each: templates on a common base (templates/page.html), and plots drawn into them.

Names of clips, persons and files are text in a page and nothing else: the templates escape them, plots take
no formulas from them, and a page's own policy forbids scripts and whatever would be fetched.

A plot is drawn once, in the colours of `INK`, `LINE`, `REAL_COLOR` and `FAKE_COLOR`. The PNG has them on
white; in the page they become the page's own, so that a plot follows its light and dark mode.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from utils.files import write_atomically, write_text
from utils.names import one_line, readable

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
STYLE = {
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
    "text.parse_math": False,  # names of data sets and methods are no formulas
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def write_page(path: Path, template: Path, **context: Any) -> None:
    """Render a template (it may extend `page.html` and import `parts.html`) and write it atomically.

    Values are escaped, and what no page may hold is replaced; a name that the template does not find is an
    error.
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
    """A name from a data set as it stands in a plot: one line, not longer than there is room for."""
    shown = one_line(name, MAX_DRAWN)
    # matplotlib leaves out of a legend what begins with an underscore
    return f"\u200b{shown}" if shown.startswith("_") else shown


def save_plot(figure: Figure, path: Path, alt: str) -> Markup:
    """Write a figure as PNG and return it as SVG to stand in a page, `alt` being what it says in words."""
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=150, facecolor="white"))
    buffer = io.BytesIO()
    # the salt keeps the names inside different from those of the page's other plots, and the same every time
    with rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_for_page(buffer.getvalue(), alt))


def _for_page(svg: bytes, alt: str) -> str:
    """An SVG file -> an element of an HTML page: no fixed size, no style or name that reaches outside it."""
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
    for element in root.iter():  # in what is drawn; a name may look like a colour, too
        for name, value in element.attrib.items():
            element.set(name, COLORS.sub(lambda found: PAGE_COLORS[found[0]], value))
    root.attrib |= {"class": "plot", "role": "img", "aria-label": readable(alt), "data-width": width}
    return ElementTree.tostring(root, encoding="unicode")
