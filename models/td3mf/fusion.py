"""The fusion network of 2D3MF: features of picture and sound, mixed by cross-attention.

"2D3MF: Deepfake Detection using Multi-Modal Middle Fusion"; published code: aiden200/2D3MF, d4fd8e8. Two
streams of tokens attend to each other, pass two convolutions over time (middle fusion; none in late fusion),
and their means over time are classified together, sound first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.position import sinusoidal_positions

# what is made of the audio features: tokens as they are, of scores of speakers projected, of MFCC by a CNN
AUDIO_KINDS = ("tokens", "scores", "mfcc")
SCORES_WIDTH = 768  # that scores are projected to
NUM_MFCC, MFCC_STEPS = 10, 87  # of a second
# what attends to what; see TD3MFNetwork._mix
FUSION_TYPES = (
    "default", "audio_refuse", "video_refuse", "self_attention", "self_cross_attention", "multi_attention",
)  # fmt: skip
MLP_RATIO = 2


class CrossBlock(nn.Module):
    """block(keys, queries) -> (B, M, out): (B, N, keys) attended to by (B, M, queries), then an MLP.

    Only the MLP is residual: nothing of the queries is added to what they gather.
    """

    def __init__(self, keys: int, queries: int, out: int, heads: int) -> None:
        super().__init__()
        if out % heads:
            raise ValueError(f"num_heads must divide the width {out} of a stream, got {heads}")
        self.heads = heads
        self.norm_q, self.norm_k, self.norm = nn.LayerNorm(queries), nn.LayerNorm(keys), nn.LayerNorm(out)
        self.q, self.kv = nn.Linear(queries, out, bias=False), nn.Linear(keys, 2 * out, bias=False)
        self.proj = nn.Linear(out, out)
        hidden = MLP_RATIO * out
        self.mlp = nn.Sequential(nn.Linear(out, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, keys: Tensor, queries: Tensor) -> Tensor:
        q = self.q(self.norm_q(queries)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(self.norm_k(keys)).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        gathered = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        mixed: Tensor = gathered + self.mlp(self.norm(gathered))
        return mixed


class TD3MFNetwork(nn.Module):
    """network(video, audio) -> (logits (B, C), fused (B, H + A)).

    video: (B, T, V) features. audio: (B, N, `audio_dim`) tokens or scores, or of `audio_kind` "mfcc"
    (B, N, 10, 87) coefficients. A is the width of the audio's stream: in late fusion the tokens' own, else H.
    `only` "video" or "audio" is a linear head on that stream's features, without fusion: fused are they.
    """

    def __init__(
        self, *, video_dim: int, audio_kind: str, audio_dim: int, hidden_dim: int, num_heads: int,
        num_steps: int, num_audio_steps: int, num_classes: int, fusion_type: str, late: bool,
        audio_positions: bool, only: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.fusion_type, self.late, self.only = fusion_type, late, only
        width = audio_width(audio_kind, audio_dim, hidden_dim)
        if only == "video":
            self.head = nn.Linear(num_steps * video_dim, num_classes)
            return
        if audio_kind == "scores":
            self.speaker_projection = nn.Linear(audio_dim, width)
        self.is_mfcc = audio_kind == "mfcc"
        if self.is_mfcc:
            self.mfcc_stage = nn.Sequential(_step(NUM_MFCC, 64), _step(64, width))
            self.mfcc_head = nn.Linear(width, width)
        if self.is_mfcc or not (late or only):
            # of "mfcc" its weights serve twice: within a window and, after the fusion, over the windows
            self.audio_stage = nn.Sequential(_step(width, 256), _step(256, hidden_dim))
        if only:
            self.head = nn.Linear(num_audio_steps * width, num_classes)
            return
        self.video_projection = nn.Linear(video_dim, hidden_dim)
        if not late:
            shapes = ((hidden_dim, 128), (128, hidden_dim))
            self.video_stage = nn.Sequential(*(_step(*shape, valid=False) for shape in shapes))
        self.positions_dropout = nn.Dropout(0.1) if audio_positions else None
        self.audio_blocks, self.video_blocks = _blocks(fusion_type, width, hidden_dim, num_heads)
        self.head = nn.Linear(hidden_dim + (width if late else hidden_dim), num_classes)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        fused = self._fused(video, audio)
        return self.head(fused), fused

    def _fused(self, video: Tensor, audio: Tensor) -> Tensor:
        if self.only == "video":
            return video.flatten(1)
        audio = self._adapted(audio)
        if self.only:
            return audio.flatten(1)
        if self.positions_dropout:
            steps = torch.arange(audio.shape[1], device=audio.device)
            audio = self.positions_dropout(audio + sinusoidal_positions(steps, audio.shape[2]))
        video, audio = self._mix(self.video_projection(video), audio)
        if not self.late:
            video = self.video_stage(video.transpose(1, 2)).transpose(1, 2)
            audio = self.audio_stage(audio.transpose(1, 2)).transpose(1, 2)
        return torch.cat([audio.mean(dim=1), video.mean(dim=1)], dim=1)

    def _adapted(self, audio: Tensor) -> Tensor:
        """(B, N, A) tokens of the audio features."""
        if self.is_mfcc:
            windows = self.audio_stage(self.mfcc_stage(audio.flatten(0, 1))).mean(dim=2)
            tokens: Tensor = self.mfcc_head(windows).unflatten(0, audio.shape[:2])
            return tokens
        if hasattr(self, "speaker_projection"):
            tokens = self.speaker_projection(audio)
            return tokens
        return audio

    def _mix(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, each plus what it gathers of the other (of itself in self_attention)."""
        kind, of_audio, of_video = self.fusion_type, self.audio_blocks, self.video_blocks
        if kind == "self_attention":
            return video + of_video[0](video, video), audio + of_audio[0](audio, audio)
        if kind == "self_cross_attention":
            video, audio = video + of_video[1](video, video), audio + of_audio[1](audio, audio)
        if kind == "audio_refuse":
            for_video = of_video[0](audio, video)
            return video + for_video, audio + of_audio[0](video + for_video, audio)
        if kind == "video_refuse":
            for_audio = of_audio[0](video, audio)
            return video + of_video[0](audio + for_audio, video), audio + for_audio
        mixed = video + of_video[0](audio, video), audio + of_audio[0](video, audio)
        if kind != "multi_attention":
            return mixed
        video, audio = mixed
        return video + of_video[1](audio, video), audio + of_audio[1](video, audio)


def audio_width(kind: str, audio_dim: int, hidden_dim: int) -> int:
    """The width of the audio's stream before the fusion."""
    return {"tokens": audio_dim, "scores": SCORES_WIDTH, "mfcc": hidden_dim}[kind]


def _blocks(kind: str, audio: int, video: int, heads: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """What the streams of audio and of video pass, in the order of TD3MFNetwork._mix."""
    cross = [(video, audio, audio), (audio, video, video)]  # keys, queries, out
    own = [(audio, audio, audio), (video, video, video)]
    shapes = {
        "self_attention": [own],
        "self_cross_attention": [cross, own],
        "multi_attention": [cross, cross],
    }
    chosen = shapes.get(kind, [cross])
    audio_blocks, video_blocks = (
        nn.ModuleList(CrossBlock(*pair[stream], heads) for pair in chosen) for stream in (0, 1)
    )
    return audio_blocks, video_blocks


def _step(width: int, out: int, *, valid: bool = True) -> nn.Sequential:
    """(B, width, T) -> (B, out, T), or T - 3 of a `valid` step: convolution, norm, ReLU, largest of two."""
    if not valid:
        return nn.Sequential(nn.Conv1d(width, out, 3, padding=1), nn.BatchNorm1d(out), nn.ReLU())
    return nn.Sequential(nn.Conv1d(width, out, 3), nn.BatchNorm1d(out), nn.ReLU(), nn.MaxPool1d(2, stride=1))
