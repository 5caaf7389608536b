"""Small raw data sets in the original layouts, quirks included, and what their loaders must find in them.

TREES: data set -> function(root, media) -> RawTree. `media` says whether the files are videos or empty.
"""

from tests.trees.celebdf import write_celebdf
from tests.trees.deepfaketimit import write_deepfaketimit
from tests.trees.dfdc import write_dfdc, write_dfdc_preview
from tests.trees.fakeavceleb import write_fakeavceleb
from tests.trees.ravdess import write_ravdess

TREES = {
    "celebdf": write_celebdf,
    "deepfaketimit": write_deepfaketimit,
    "dfdc": write_dfdc,
    "dfdc_preview": write_dfdc_preview,
    "fakeavceleb": write_fakeavceleb,
    "ravdess": write_ravdess,
}
