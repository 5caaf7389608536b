"""AV-HuBERT: the mouth in 100 frames, their sound, or both -> a feature per frame.

Shi et al., "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster Prediction", ICLR 2022,
arXiv 2201.02184; published code: facebookresearch/av_hubert, b4fa4af. A ResNet sees the mouth and a linear
layer hears the filterbank rows of each frame; both are concatenated (zeros for the one that is not given),
normalised, projected, and encoded by wav2vec 2.0's transformer, with norms first in both sizes. The feature
is the last layer's output after the final norm.

Pieces of 4 s are encoded each by itself: a row knows nothing of what is on the other side of its piece's
border, and the first sample of a piece is not pre-emphasised. Rows do not depend on what fills a last piece
after the clip's end. Clips of another rate than 25 per second show the frames nearest to each row's middle,
as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.backbones.backbone import MOUTH_SIZE, Backbone, Encoder, Plan, Weights
from models.backbones.log_filterbank import (
    HOP_SAMPLES,
    NUM_FILTERS,
    SOUND_RATE_HZ,
    WINDOW_SAMPLES,
    LogFilterbank,
    as_16_bit,
    stack_rows,
)
from models.backbones.published import load_published
from models.backbones.stem_resnet import PICTURE_MEAN, PICTURE_STD, StemResNet
from models.backbones.wav2vec2_encoder import EncoderSize, Wav2Vec2Encoder

ROWS_PER_SECOND = 25
ROWS = 100  # of a piece
STACKED = 4  # filterbank rows of a feature row
ROW_SAMPLES = STACKED * HOP_SAMPLES
PIECE_SAMPLES = ROWS * ROW_SAMPLES + WINDOW_SAMPLES - HOP_SAMPLES  # to the end of the last row's window
CROP_SIZE = 88  # the middle of a mouth
VIDEO_CHANNELS = (64, 128, 256, 512)
# conf/pretrain/base_vox_iter5.yaml and large_vox_iter5.yaml of the published code
SIZES = {
    "base": EncoderSize(feature_dim=768, num_layers=12, num_heads=12, feedforward_dim=3072, norm_first=True),
    "large": EncoderSize(
        feature_dim=1024, num_layers=24, num_heads=16, feedforward_dim=4096, norm_first=True
    ),
}
BATCH_SIZES = {"base": 4, "large": 2}
# a key that every form has: what is before it is the name of AV-HuBERT in a model fine-tuned for speech
FIRST_KEY = "feature_extractor_audio.proj.weight"
_POSITIONS = r"encoder\.pos_conv(?:\.0|_embed\.conv)\."
_LAYER = r"(encoder\.layers\.\d+)\."
RENAMES = [
    (r"feature_extractor_audio\.proj\.", "audio_projection."),
    (r"feature_extractor_video\.resnet\.", "video_encoder."),
    (r"feature_extractor_video\.proj\.", "video_projection."),
    (r"layer_norm\.", "fusion.0."),
    (r"post_extract_proj\.", "fusion.1."),
    # names of a normalised weight's parts in newer versions of PyTorch, and those of `transformers`
    (_POSITIONS + r"parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
    (_POSITIONS + r"parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
    (_POSITIONS, "encoder.pos_conv.0."),
    (_LAYER + r"attention\.", r"\1.self_attn."),
    (_LAYER + r"layer_norm\.", r"\1.self_attn_layer_norm."),
    (_LAYER + r"feed_forward\.intermediate_dense\.", r"\1.fc1."),
    (_LAYER + r"feed_forward\.output_dense\.", r"\1.fc2."),
]
IGNORED = r"mask_emb$|final_proj\.|label_embs_concat$"  # only its training needs them


class AvHubert(nn.Module):
    """encoder(mouths, sound, padding_mask) -> (B, T, D) features of T frames, 25 per second."""

    def __init__(self, size: EncoderSize, video_channels: Sequence[int] = VIDEO_CHANNELS) -> None:
        super().__init__()
        width = size.feature_dim
        self.video_encoder = StemResNet(video_channels, colours=1)
        self.video_projection = nn.Linear(self.video_encoder.out_features, width)
        self.audio_projection = nn.Linear(STACKED * NUM_FILTERS, width)
        self.fusion = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width))
        self.encoder = Wav2Vec2Encoder(size)

    def forward(self, mouths: Tensor | None, sound: Tensor | None, padding_mask: Tensor) -> Tensor:
        """mouths: (B, 1, T, 88, 88) normalised grey. sound: (B, T, 104), see stack_rows. One may be None.

        padding_mask: (B, T), True = padding, which the features of other frames do not depend on.
        """
        audio = video = None
        if sound is not None:
            audio = self.audio_projection(sound)
        if mouths is not None:
            # with its padding: the number of pictures, and so the grouping of sums, is always the same
            video = self.video_encoder(mouths.masked_fill(padding_mask[:, None, :, None, None], 0.0), None)
            video = self.video_projection(video)
        streams = [stream for stream in (audio, video) if stream is not None]
        missing = torch.zeros_like(streams[0])
        fused = torch.cat([missing if stream is None else stream for stream in (audio, video)], dim=2)
        features: Tensor = self.encoder(self.fusion(fused), padding_mask)
        return features

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a published file, `*_vox_iter5.pt` of fairseq. Raises CheckpointError if it does not fit.

        Also of a model that was fine-tuned for speech, and in the form of `transformers` (the names of
        nguyenvulebinh/AV-HuBERT and of enactic/japanese-avhubert at Hugging Face); other parts of such a
        model are left out.
        """
        prefix = next((key.removesuffix(FIRST_KEY) for key in weights if key.endswith(FIRST_KEY)), "")
        own = {key: value for key, value in weights.items() if key.startswith(prefix)}
        load_published(self, own, RENAMES, source, prefix=prefix, ignored=IGNORED)


class AvHubertPieces(Encoder):
    """Mouths and sound of pieces of 100 rows -> (B, 100, D); rows after the clip's end mean nothing.

    encoder(mouths, samples, rows_left), the first if it sees, the second if it hears: (B, 100, 96, 96)
    uint8, (B, 64240) in [-1, 1], and (B,), how many rows the clip has from a piece's start on.
    """

    def __init__(self, network: AvHubert, *, sees: bool, hears: bool) -> None:
        super().__init__(network)
        self.sees, self.hears = sees, hears
        self.filterbank = LogFilterbank()

    def forward(self, *inputs: Tensor) -> Tensor:
        *signals, rows_left = inputs
        padding_mask = torch.arange(ROWS, device=rows_left.device) >= rows_left[:, None]
        mouths = _normalized(signals[0]) if self.sees else None
        sound = self._filterbank_rows(signals[-1], rows_left) if self.hears else None
        features: Tensor = self.network(mouths, sound, padding_mask)
        return features

    def _filterbank_rows(self, samples: Tensor, rows_left: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):  # logarithms need float32
            num_samples = (rows_left * ROW_SAMPLES).clamp_max(PIECE_SAMPLES)
            rows, _ = self.filterbank(as_16_bit(samples), num_samples)
            return stack_rows(rows, STACKED, ROWS)


def _normalized(mouths: Tensor) -> Tensor:
    """(B, T, 96, 96) uint8 -> (B, 1, T, 88, 88)."""
    margin = (MOUTH_SIZE - CROP_SIZE) // 2
    middle = mouths[:, None, :, margin : margin + CROP_SIZE, margin : margin + CROP_SIZE]
    return (middle.float() / 255 - PICTURE_MEAN) / PICTURE_STD


def mouth_plan(fps: Fraction, num_frames: int) -> Plan:
    """Pieces of 100 rows, and the frames that are shown in the middles of the rows."""
    num_rows = max(1, int(num_frames * ROWS_PER_SECOND / fps))
    rows = np.arange(-(-num_rows // ROWS) * ROWS)
    frames = (2 * rows + 1) * fps.numerator // (2 * ROWS_PER_SECOND * fps.denominator)
    return _plan(np.minimum(frames, num_frames - 1).reshape(-1, ROWS), num_rows)


def sound_plan(rate_hz: Fraction, num_samples: int) -> Plan:
    """Pieces of 100 rows, and the samples with which they begin."""
    num_rows = max(1, round(num_samples * ROWS_PER_SECOND / rate_hz))
    return _plan(np.arange(-(-num_rows // ROWS))[:, None] * ROWS * ROW_SAMPLES, num_rows)


def _plan(pieces: npt.NDArray[np.int64], num_rows: int) -> Plan:
    return Plan(pieces, Fraction(1, ROWS_PER_SECOND), Fraction(1, ROWS_PER_SECOND), num_rows)


def _backbone(size: str, *, sees: bool, hears: bool) -> Backbone:
    return Backbone(
        make=lambda: AvHubertPieces(AvHubert(SIZES[size]), sees=sees, hears=hears),
        width=SIZES[size].feature_dim,
        weights=Weights(
            f"{size}_vox_iter5.pt", "facebookresearch.github.io/av_hubert", "AV-HuBERT's own, not commercial"
        ),
        plan=mouth_plan if sees else sound_plan,
        batch_size=BATCH_SIZES[size],
        sample_rate_hz=SOUND_RATE_HZ if hears else 0,
        piece_samples=PIECE_SAMPLES if hears else 0,
        mouth=sees,
        rows_of_piece=ROWS,
    )


BACKBONES = {
    f"avhubert_{size}{suffix}": _backbone(size, sees=sees, hears=hears)
    for size in SIZES
    for suffix, sees, hears in (("", True, True), ("_video", True, False), ("_audio", False, True))
}
