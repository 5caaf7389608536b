"""The menu of data sets: name -> function(data_root) -> Listing."""

from loaders.av_deepfake1m import list_av_deepfake1m
from loaders.deepspeak import list_deepspeak
from loaders.fakeavceleb import list_fakeavceleb
from loaders.ffpp import list_ffpp
from loaders.kodf import list_kodf
from loaders.lavdf import list_lavdf
from loaders.manifest import list_manifest

DATASETS = {
    "av_deepfake1m": list_av_deepfake1m,
    "deepspeak": list_deepspeak,
    "fakeavceleb": list_fakeavceleb,
    "ffpp": list_ffpp,
    "kodf": list_kodf,
    "lavdf": list_lavdf,
    "manifest": list_manifest,
}
