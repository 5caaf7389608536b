"""The menu of data sets: name -> function(data_root) -> Listing."""

from loaders.fakeavceleb import list_fakeavceleb

DATASETS = {
    "fakeavceleb": list_fakeavceleb,
}
