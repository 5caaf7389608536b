"""Small raw data sets in the original layouts, quirks included, and what their loaders must find in them.

TREES: data set -> function(root, media) -> RawTree. `media` says whether the files are videos or empty.
"""

from tests.trees.av_deepfake1m import write_av_deepfake1m
from tests.trees.deepspeak import write_deepspeak
from tests.trees.fakeavceleb import write_fakeavceleb
from tests.trees.ffpp import write_ffpp
from tests.trees.kodf import write_kodf
from tests.trees.lavdf import write_lavdf
from tests.trees.manifest import write_manifest

TREES = {
    "av_deepfake1m": write_av_deepfake1m,
    "deepspeak": write_deepspeak,
    "fakeavceleb": write_fakeavceleb,
    "ffpp": write_ffpp,
    "kodf": write_kodf,
    "lavdf": write_lavdf,
    "manifest": write_manifest,
}
