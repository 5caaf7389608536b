"""The menu of data sets: name -> function(data_root) -> Listing."""

from loaders.datasets.av_deepfake1m import list_av_deepfake1m
from loaders.datasets.av_deepfake1m_pp import list_av_deepfake1m_pp
from loaders.datasets.avlips import list_avlips
from loaders.datasets.celebdf import list_celebdf
from loaders.datasets.deepfake_eval_2024 import list_deepfake_eval_2024
from loaders.datasets.deepfakebench import list_deepfakebench
from loaders.datasets.deepfaketimit import list_deepfaketimit
from loaders.datasets.deepspeak import list_deepspeak
from loaders.datasets.dfdc import list_dfdc
from loaders.datasets.dfdc_preview import list_dfdc_preview
from loaders.datasets.fakeavceleb import list_fakeavceleb
from loaders.datasets.ffpp import list_ffpp
from loaders.datasets.frame_lists import list_frame_lists
from loaders.datasets.idforge import list_idforge
from loaders.datasets.kodf import list_kodf
from loaders.datasets.lavdf import list_lavdf
from loaders.datasets.manifest import list_manifest
from loaders.datasets.mavos_dd import list_mavos_dd
from loaders.datasets.polyglotfake import list_polyglotfake
from loaders.datasets.ravdess import list_ravdess

DATASETS = {
    "av_deepfake1m": list_av_deepfake1m,
    "av_deepfake1m_pp": list_av_deepfake1m_pp,
    "avlips": list_avlips,
    "celebdf": list_celebdf,
    "deepfake_eval_2024": list_deepfake_eval_2024,
    "deepfakebench": list_deepfakebench,
    "deepfaketimit": list_deepfaketimit,
    "deepspeak": list_deepspeak,
    "dfdc": list_dfdc,
    "dfdc_preview": list_dfdc_preview,
    "fakeavceleb": list_fakeavceleb,
    "ffpp": list_ffpp,
    "frame_lists": list_frame_lists,
    "idforge": list_idforge,
    "kodf": list_kodf,
    "lavdf": list_lavdf,
    "manifest": list_manifest,
    "mavos_dd": list_mavos_dd,
    "polyglotfake": list_polyglotfake,
    "ravdess": list_ravdess,
}
