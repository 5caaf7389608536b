"""Small raw data sets in the original layouts, quirks included, and what their loaders must find in them.

TREES: data set -> function(root, media) -> RawTree. `media` says whether the files are videos or empty.
"""

from tests.trees.fakeavceleb import write_fakeavceleb

TREES = {
    "fakeavceleb": write_fakeavceleb,
}
