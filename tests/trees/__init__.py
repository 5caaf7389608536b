"""Small raw data sets in the original layouts, quirks included, and what their loaders must find in them.

TREES: data set -> function(root, media) -> RawTree. `media` says whether the files are videos or empty.
"""

from tests.trees.av_deepfake1m import write_av_deepfake1m
from tests.trees.av_deepfake1m_pp import write_av_deepfake1m_pp
from tests.trees.avlips import write_avlips
from tests.trees.celebdf import write_celebdf
from tests.trees.deepfake_eval_2024 import write_deepfake_eval_2024
from tests.trees.deepfaketimit import write_deepfaketimit
from tests.trees.deepspeak import write_deepspeak
from tests.trees.dfdc import write_dfdc, write_dfdc_preview
from tests.trees.fakeavceleb import write_fakeavceleb
from tests.trees.ffpp import write_ffpp
from tests.trees.idforge import write_idforge
from tests.trees.kodf import write_kodf
from tests.trees.lavdf import write_lavdf
from tests.trees.manifest import write_manifest
from tests.trees.mavos_dd import write_mavos_dd
from tests.trees.polyglotfake import write_polyglotfake
from tests.trees.ravdess import write_ravdess

TREES = {
    "av_deepfake1m": write_av_deepfake1m,
    "av_deepfake1m_pp": write_av_deepfake1m_pp,
    "avlips": write_avlips,
    "celebdf": write_celebdf,
    "deepfake_eval_2024": write_deepfake_eval_2024,
    "deepfaketimit": write_deepfaketimit,
    "deepspeak": write_deepspeak,
    "dfdc": write_dfdc,
    "dfdc_preview": write_dfdc_preview,
    "fakeavceleb": write_fakeavceleb,
    "ffpp": write_ffpp,
    "idforge": write_idforge,
    "kodf": write_kodf,
    "lavdf": write_lavdf,
    "manifest": write_manifest,
    "mavos_dd": write_mavos_dd,
    "polyglotfake": write_polyglotfake,
    "ravdess": write_ravdess,
}
