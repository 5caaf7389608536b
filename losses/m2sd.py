"""The objective of M2SD: L = CE + w1 STP + w2 VAC + w3 RS, of those whose predictions the model gives.

    ce   cross-entropy of the picture's label
    stp  spatial-temporal patterns: masked tubelets, from the others; the teacher's features (reading A of
         "pixel-wise teacher") or standardised pixels (reading B), or both
    vac  visual-auditory consistency: the expert's slots, of reals only
    rs   real similarity: reals are drawn together; no fake gets a gradient from it

and, where the expert itself is trained, `sync`: picture and sound of the same slot agree (InfoNCE).

The published code holds no training; Yu et al. (TCSVT 2024) give the ideas, and the forms are the
specification's. Terms that push fakes away are left out on purpose: the paper excludes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.known import known_bce, mean_of_known
from models.m2sd import M2SDOutput
from utils.config import opt, require_at_least
from utils.types import ClipBatch

CENTRE_MOMENTUM = 0.99
MARGIN, MARGIN_SCALE = 0.9, 20.0
TEMPERATURE = 0.07  # of the expert's slots


@dataclass(frozen=True, kw_only=True)
class M2SDLossConfig:
    """losses/m2sd.py: weights of the terms, and their variants."""

    stp_weight: float = opt(1.0, "weight of the masked tubelets (lambda 1)")
    vac_weight: float = opt(1.0, "weight of the expert's slots (lambda 2)")
    rs_weight: float = opt(0.5, "weight of real similarity (lambda 3)")
    stp_reals_only: bool = opt(False, "masked tubelets of real clips only")
    real_similarity: str = opt(
        "pairs",
        "pairs: 1 - cosine of every two reals of a batch; centre: of each real and the reals' moving mean; "
        "margin: of each real and the direction that --real_direction learns, up to a cosine of 0.9",
        choices=("pairs", "centre", "margin"),
    )
    label_smoothing: float = opt(0.0, "share of a label that is spread over both classes")
    fake_prior: float = opt(
        0.5,
        "share p of fakes in mixed batches: log(p / (1 - p)) is added to the logit in training. With k more "
        "real clips for each labelled one and F kinds of fakes for one real, p = F / ((F + 1)(k + 1))",
    )

    def __post_init__(self) -> None:
        require_at_least(self, 0, "stp_weight", "vac_weight", "rs_weight")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if not 0 < self.fake_prior < 1:
            raise ValueError(f"fake_prior must be between 0 and 1, got {self.fake_prior}")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        unused = {} if self.rs_weight else {"real_similarity": "rs_weight is 0"}
        return unused if self.stp_weight else unused | {"stp_reals_only": "stp_weight is 0"}


def picture_labels(batch: ClipBatch) -> Tensor:
    """(B,) whether the picture is fake, which is all that the student sees; the clip's label if unknown."""
    return torch.where(batch.video_labels.isnan(), batch.labels, batch.video_labels)


def in_sync(labels: Tensor, batch: ClipBatch) -> Tensor:
    """(B,) bool: real pictures, whose sound is not known to be fake either."""
    return (labels == 0) & (batch.audio_labels != 1)


def token_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """(B,) smooth L1 (beta 1) of (B, M, E) predictions from the teacher's features, each standardised."""
    targets = F.layer_norm(targets, targets.shape[-1:])
    return F.smooth_l1_loss(predictions, targets, reduction="none").mean(dim=(1, 2))


def slot_loss(slots: Tensor, clips: Tensor, targets: Tensor) -> Tensor:
    """(B,) mean 1 - cosine of slots (B, S, D) and the expert's, and that of clips (B, D) and their mean."""
    of_slots = 1 - F.cosine_similarity(slots, targets, dim=2).mean(dim=1)
    return of_slots + 1 - F.cosine_similarity(clips, targets.mean(dim=1), dim=1)


def synchrony(seen: Tensor, heard: Tensor, shifts: Tensor, known: Tensor) -> Tensor:
    """InfoNCE in both directions between slots of picture (B, S, D) and of moved sound (B, K, S, D).

    All are unit vectors; the sound is moved by `shifts` (B, K) slots, the last of which is 0. Of `known` (B,)
    bool clips, each slot of the picture is to find that of its own sound, and each slot of any sound that of
    the picture at its time, if it is there. Rivals are slots of the same clip, from 2 slots away. Sound at
    another time has the same place in its piece and the same voice: neither finds anything, synchrony does.
    """
    slots, pieces = seen.shape[1], heard.shape[1]
    times = torch.arange(slots, device=seen.device)
    heard_at = (shifts[..., None] + times).flatten(1)  # (B, K * S)
    is_near = (times[:, None] - heard_at[:, None]).abs() <= 1
    similarity = seen @ heard.flatten(1, 2).mT / TEMPERATURE  # (B, S, K * S)
    is_there = (heard_at >= 0) & (heard_at < slots)
    own_sound = (times + (pieces - 1) * slots).expand(len(seen), -1)
    own_picture = torch.where(is_there, heard_at, 0)
    everywhere = torch.ones_like(own_sound, dtype=torch.bool)
    losses = []
    for rows, near, own, counted in (
        (similarity, is_near, own_sound, everywhere),
        (similarity.mT, is_near.mT, own_picture, is_there),
    ):
        left_out = near.scatter(2, own[..., None], False)
        found = F.cross_entropy(rows.masked_fill(left_out, -1e4).mT, own, reduction="none")
        losses.append(mean_of_known(found, counted & known[:, None]))
    return torch.stack(losses).mean()


@torch.no_grad()
def synchrony_accuracy(seen: Tensor, heard: Tensor, known: Tensor) -> Tensor:
    """Share of `known` (B,) clips whose slots (B, S, D) agree more with the last of the K pieces of sound
    (B, K, S, D), which is not moved, than with each other one.
    """
    cosines = (seen[:, None] * heard).sum(3).mean(2)  # (B, K)
    return mean_of_known((cosines[:, -1] > cosines[:, :-1].amax(1)).double(), known)


def pair_cosine(units: Tensor, chosen: Tensor) -> Tensor:
    """Mean cosine of every two different `chosen` (B,) bool rows of unit vectors (B, E); 0 without two."""
    count = chosen.sum().to(units)
    total = torch.where(chosen[:, None], units, 0.0).sum(dim=0)
    pairs = total.square().sum() - torch.where(chosen, units.square().sum(dim=1), 0.0).sum()
    return pairs / (count * (count - 1)).clamp_min(1)


class RealCentre(nn.Module):
    """term(units (B, E), is_real (B,) bool) -> mean 1 - cosine of reals and their moving mean; 0 without any.

    In training the mean first follows the batch; the first batch's is taken whole. No gradient passes to it.
    """

    centre: Tensor  # (E,) once there was a real, (0,) before that

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(0))

    def forward(self, units: Tensor, is_real: Tensor) -> Tensor:
        if not self.centre.numel():
            self.centre.resize_(units.shape[1]).zero_()  # the same tensor: other processes are sent it
        if self.training:
            self._follow(units.detach(), is_real)
        return mean_of_known(1 - units @ F.normalize(self.centre.to(units), dim=0), is_real)

    def _follow(self, units: Tensor, is_real: Tensor) -> None:
        count = is_real.sum()
        mean = (torch.where(is_real[:, None], units, 0.0).sum(dim=0) / count.clamp_min(1)).to(self.centre)
        moved = torch.where((self.centre == 0).all(), mean, self.centre.lerp(mean, 1 - CENTRE_MOMENTUM))
        self.centre.copy_(torch.where(count > 0, moved, self.centre))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.centre.resize_(state[f"{prefix}centre"].shape)
        super()._load_from_state_dict(state, prefix, *rest)


class M2SDLoss(nn.Module):
    """criterion(M2SDOutput, ClipBatch) -> {"total", "ce", "rs", ...}, scalars.

    `cosine_real` and `cosine_fake` are mean cosines of every two clips: if both go to 1, all clips have one
    feature, which real similarity alone would lead to.
    """

    config_type = M2SDLossConfig

    def __init__(self, config: M2SDLossConfig) -> None:
        super().__init__()
        self.config = config
        if config.rs_weight and config.real_similarity == "centre":
            self.real_centre = RealCentre()
        self.shift = math.log(config.fake_prior / (1 - config.fake_prior))

    def clips_of(self, output: M2SDOutput, batch: ClipBatch) -> dict[str, int]:
        """Of how many clips of a batch those terms are means that leave some out."""
        labels = picture_labels(batch)
        num_real, num_fake = int((labels == 0).sum()), int((labels == 1).sum())
        found = dict.fromkeys(("vac", "rs", "cosine_real"), num_real) | {"cosine_fake": num_fake}
        if self.config.stp_reals_only:
            found |= dict.fromkeys(("stp_tokens", "stp_pixels"), num_real)
        if output.seen_slots is not None:
            num_known = int(in_sync(labels, batch).sum())
            found |= dict.fromkeys(("sync", "sync_accuracy", "total"), num_known)
        return found

    def forward(self, output: M2SDOutput, batch: ClipBatch) -> dict[str, Tensor]:
        with torch.autocast(output.logits.device.type, enabled=False):  # cosines need float32
            labels = picture_labels(batch)
            terms, told = self._distilled(output, labels == 0), dict[str, Tensor]()
            if output.embedding is not None:  # else nothing is classified yet
                more, told = self._classified(output, output.embedding, labels)
                terms |= more
            if output.seen_slots is not None:
                seen, heard = _exact(output.seen_slots), _exact(output.heard_slots)
                known = in_sync(labels, batch)
                assert output.shifts is not None
                terms["sync"] = synchrony(seen, heard, output.shifts, known)
                if not self.training:  # in which there are fewer rivals
                    told["sync_accuracy"] = synchrony_accuracy(seen, heard, known)
            total = torch.stack([self._weight(name) * term for name, term in terms.items()]).sum()
            return {"total": total, **terms, **told}

    def _weight(self, name: str) -> float:
        c = self.config
        weights = {"stp_tokens": c.stp_weight, "stp_pixels": c.stp_weight, "vac": c.vac_weight}
        return (weights | {"rs": c.rs_weight}).get(name, 1.0)

    def _classified(
        self, output: M2SDOutput, embedding: Tensor, labels: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(terms of the labels, mean cosines of both classes)."""
        is_real, is_fake = labels == 0, labels == 1
        units = F.normalize(_exact(embedding), dim=1)
        terms = {"ce": self._cross_entropy(_exact(output.logits), labels)}
        if self.config.rs_weight:
            terms["rs"] = self._real_similarity(units, output.real_cosines, is_real)
        cosines = {"cosine_real": is_real, "cosine_fake": is_fake}
        return terms, {name: pair_cosine(units.detach(), chosen) for name, chosen in cosines.items()}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of two classes with smoothed labels, which is that of one logit."""
        smoothed = labels * (1 - self.config.label_smoothing) + self.config.label_smoothing / 2
        return known_bce(logits + self.shift if self.training else logits, smoothed)

    def _real_similarity(self, units: Tensor, real_cosines: Tensor | None, is_real: Tensor) -> Tensor:
        """Without a part of any fake: its gradient is exactly 0. 0 if the batch has too few reals."""
        if self.config.real_similarity == "centre":
            term: Tensor = self.real_centre(units, is_real)
            return term
        if self.config.real_similarity == "margin":
            return mean_of_known(F.softplus(MARGIN_SCALE * (MARGIN - _exact(real_cosines))), is_real)
        cosine = pair_cosine(units, is_real)
        return torch.where(is_real.sum() > 1, 1 - cosine, 0 * cosine)

    def _distilled(self, output: M2SDOutput, is_real: Tensor) -> dict[str, Tensor]:
        """The terms of teacher and expert, as far as the model gives predictions of them."""
        c, terms = self.config, dict[str, Tensor]()
        taught = is_real if c.stp_reals_only else torch.ones_like(is_real)
        if c.stp_weight and output.token_predictions is not None:
            losses = token_loss(_exact(output.token_predictions), _exact(output.token_targets))
            terms["stp_tokens"] = mean_of_known(losses, taught)
        if c.stp_weight and output.pixel_predictions is not None:
            errors = _exact(output.pixel_predictions) - _exact(output.pixel_targets)
            terms["stp_pixels"] = mean_of_known(errors.square().mean(dim=(1, 2)), taught)
        if c.vac_weight and output.slot_predictions is not None:
            parts = output.slot_predictions, output.clip_predictions, output.slot_targets
            terms["vac"] = mean_of_known(slot_loss(*map(_exact, parts)), is_real)
        return terms


def _exact(values: Tensor | None) -> Tensor:
    """In float32 at least."""
    assert values is not None  # the model gives a prediction with its target
    return values if values.dtype == torch.float64 else values.float()
