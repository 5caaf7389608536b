"""Checkpoints of 2D3MF's published code under our names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.backbones.published import load_published
from models.td3mf.fusion import TD3MFNetwork

# part of a cross-attention block -> ours
PARTS = {
    "norm1_q": "norm_q", "norm1_k": "norm_k", "norm2": "norm", "attn.q": "q", "attn.kv": "kv",
    "attn.proj": "proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2",
}  # fmt: skip
# the blocks that take part, first and second, of audio and of video
BLOCKS = {
    "self_attention": (("aa",), ("vv",)),
    "self_cross_attention": (("av1", "aa"), ("va1", "vv")),
    "multi_attention": (("av1", "av2"), ("va1", "va2")),
}
HEADS = {"": "classifier_1.0.", "video": "lp_only_fc.", "audio": "audio_only_fc."}
# built by the published code and never used, or its positions, or the frozen encoders
UNUSED = r"eat_down\.|video_model_cnn\.(conv1d_[01]|classifier_1)\.|audio_pe\.|(video|audio)_model\."


def load_network(network: TD3MFNetwork, weights: Mapping[str, Tensor], source: str) -> None:
    """Load a published state_dict, without what takes no part. Raises CheckpointError if it does not fit."""
    renames, ignored = names_of(network)
    load_published(network, weights, renames, source, ignored=ignored)


def names_of(network: TD3MFNetwork) -> tuple[list[tuple[str, str]], str]:
    """The renames of a published checkpoint's keys, and what of it takes no part: see load_published()."""
    blocks = BLOCKS.get(network.fusion_type, (("av1",), ("va1",)))
    renames, ignored = [(HEADS[network.only].replace(".", r"\."), "head.")], [UNUSED]
    taking_part = set() if network.only else {name for stream in blocks for name in stream}
    for stream, names in zip(("audio_blocks", "video_blocks"), blocks, strict=True):
        for place, name in enumerate(names):
            beginnings = {rf"{name}\.{part}\.": f"{stream}.{place}.{ours}." for part, ours in PARTS.items()}
            renames += beginnings.items()
    others = {"av1", "av2", "va1", "va2", "aa", "vv"} - taking_part
    ignored += [rf"({'|'.join(sorted(others))})\."]
    ignored += [head.replace(".", r"\.") for only, head in HEADS.items() if only != network.only]
    own = network.state_dict()
    for theirs, ours in (
        (r"audio_model_cnn\.conv1d_0\.", "mfcc_stage.0."),
        (r"audio_model_cnn\.conv1d_1\.", "mfcc_stage.1."),
        (r"audio_model_cnn\.classifier_1\.0\.", "mfcc_head."),
        (r"audio_model_cnn\.conv1d_2\.", "audio_stage.0."),
        (r"audio_model_cnn\.conv1d_3\.", "audio_stage.1."),
        (r"video_model_cnn\.conv1d_2\.", "video_stage.0."),
        (r"video_model_cnn\.conv1d_3\.", "video_stage.1."),
        (r"project_down\.", "video_projection."),
        (r"fc_xvec\.", "speaker_projection."),
    ):
        if any(key.startswith(ours) for key in own):
            renames.append((theirs, ours))
        else:
            ignored.append(theirs)
    return renames, "|".join(ignored)
