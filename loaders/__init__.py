"""The menu of data sets: name -> function(data_root) -> Listing."""

from loaders.fakeavceleb import list_fakeavceleb
from loaders.ffpp import list_ffpp
from loaders.kodf import list_kodf

DATASETS = {
    "fakeavceleb": list_fakeavceleb,
    "ffpp": list_ffpp,
    "kodf": list_kodf,
}
