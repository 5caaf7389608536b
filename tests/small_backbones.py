"""Large backbones of the menu with narrow networks of few layers instead: SMALL, name -> Backbone."""

from __future__ import annotations

import dataclasses

from torch import nn

from models.backbones import avhubert, clip, eat, emotion2vec, speech
from models.backbones.avhubert import AvHubert, AvHubertPieces
from models.backbones.backbone import Backbone
from models.backbones.clip import ClipPieces, ClipSize, ClipTower
from models.backbones.eat import BANDS, PATCH, EatEncoder, EatPieces, EatSize
from models.backbones.emotion2vec import Emotion2vecEncoder, Emotion2vecSize, FramePieces, SecondPieces
from models.backbones.marlin import MarlinEncoder, MarlinPieces
from models.backbones.menu import BACKBONES
from models.backbones.speech import SpeechPieces
from models.backbones.wav2vec2_encoder import EncoderSize
from models.blocks.vit import ViTSize

TINY_MARLIN = ViTSize(12, 1, 2)
TINY_CLIP = ClipSize(16, 24, 2, 3)
TINY_EAT = EatSize(16, 2, 2)
TINY_EMOTION2VEC = Emotion2vecSize(width=48, first_depth=1, depth=1, heads=3, channels=8)
TINY_AVHUBERT = EncoderSize(feature_dim=16, num_layers=1, num_heads=2, feedforward_dim=32, norm_first=True)
TINY_CHANNELS = (4, 4, 8, 8)
SPEECH_WIDTH = 32
SPEECH_SIZES = {
    "extractor_conv_layer_config": None, "extractor_conv_bias": True, "encoder_embed_dim": SPEECH_WIDTH,
    "encoder_projection_dropout": 0.1, "encoder_pos_conv_kernel": 128, "encoder_pos_conv_groups": 16,
    "encoder_num_layers": 3, "encoder_num_heads": 2, "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 64, "encoder_ff_interm_dropout": 0.1, "encoder_dropout": 0.1,
    "encoder_layer_drop": 0.1, "aux_num_out": None,
}  # fmt: skip


def small_speech_network(builder: str, *, is_large: bool) -> nn.Module:
    """torchaudio's network by `builder`, with norms where those of base or large networks are."""
    from torchaudio import models

    more = {"encoder_num_buckets": 320, "encoder_max_distance": 800} if builder == "wavlm_model" else {}
    mode = "layer_norm" if is_large else "group_norm"
    return getattr(models, builder)(
        extractor_mode=mode, encoder_layer_norm_first=is_large, **SPEECH_SIZES, **more
    ).eval()


def _small(name: str) -> Backbone:
    backbone = BACKBONES[name]
    if name.startswith("marlin"):
        make, width = lambda: MarlinPieces(MarlinEncoder(TINY_MARLIN)), TINY_MARLIN.width
    elif name.startswith("clip"):
        make, width = lambda: ClipPieces(ClipTower(TINY_CLIP)), TINY_CLIP.width
    elif name == "eat":
        make, width = lambda: EatPieces(EatEncoder(TINY_EAT)), BANDS // PATCH * TINY_EAT.width
    elif name.startswith("emotion2vec"):
        pieces = SecondPieces if name == "emotion2vec" else FramePieces
        make, width = lambda: pieces(Emotion2vecEncoder(TINY_EMOTION2VEC)), TINY_EMOTION2VEC.width
    elif name.startswith("avhubert"):
        sees, hears, width = backbone.sees, backbone.hears, TINY_AVHUBERT.feature_dim

        def make() -> AvHubertPieces:
            return AvHubertPieces(AvHubert(TINY_AVHUBERT, TINY_CHANNELS), sees=sees, hears=hears)
    else:
        is_large, width = backbone.width == 1024, SPEECH_WIDTH
        builder = "wavlm_model" if name.startswith("wavlm") else "wav2vec2_model"

        def make() -> SpeechPieces:
            return SpeechPieces(small_speech_network(builder, is_large=is_large), is_normalized=is_large)

    return dataclasses.replace(backbone, make=make, width=width)


LARGE = {name for room in (clip, speech, avhubert, eat, emotion2vec) for name in room.BACKBONES}
SMALL = {name: _small(name) for name in sorted(LARGE | {"marlin_base", "marlin_large"})}
