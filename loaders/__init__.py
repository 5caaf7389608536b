"""The menu of data sets: name -> function(data_root) -> Listing."""

from loaders.celebdf import list_celebdf
from loaders.deepfaketimit import list_deepfaketimit
from loaders.dfdc import list_dfdc
from loaders.dfdc_preview import list_dfdc_preview
from loaders.fakeavceleb import list_fakeavceleb
from loaders.ravdess import list_ravdess

DATASETS = {
    "celebdf": list_celebdf,
    "deepfaketimit": list_deepfaketimit,
    "dfdc": list_dfdc,
    "dfdc_preview": list_dfdc_preview,
    "fakeavceleb": list_fakeavceleb,
    "ravdess": list_ravdess,
}
