"""Small raw data sets in the original layouts, quirks included, and what their loaders must find in them.

TREES: data set -> function(root, media) -> RawTree. `media` says whether the files are videos or empty.
"""

from tests.trees.fakeavceleb import write_fakeavceleb
from tests.trees.ffpp import write_ffpp
from tests.trees.kodf import write_kodf

TREES = {
    "fakeavceleb": write_fakeavceleb,
    "ffpp": write_ffpp,
    "kodf": write_kodf,
}
