"""The objective of Exposing the Deception: three terms, balanced.

    ce   cross-entropy of the fused score, of all blocks' (with gil_loss) and of each that leaves out a block
         (with lil_loss)
    gil  D(all, fused): the fused feature keeps what the blocks know
    lil  exp(-sum_k D(all, without block k)): every block knows what the others do not

D compares probabilities at a temperature; gradients do not pass to "all". Ba et al., AAAI 2024; what the
paper calls LIL is the sum of I(z_k; y | the other blocks) = E KL(P(y | all) || P(y | without k)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.exposing_deception import ExposingOutput
from utils.config import opt, require_above, require_at_least
from utils.types import ClipBatch

TERMS = ("ce", "gil", "lil")
# of the Wasserstein distance, as in the published code
ENTROPY, MAX_ROUNDS, ENOUGH = 0.01, 100, 0.1
MARGINAL_OFFSET, SUM_OFFSET = 1e-8, 1e-6


@dataclass(frozen=True, kw_only=True)
class ExposingLossConfig:
    """losses/exposing_deception.py: terms, divergence, balance."""

    lil_loss: bool = opt(True, "local information loss: every block adds what the others lack")
    gil_loss: bool = opt(True, "global information loss: the fused feature keeps what the blocks know")
    mi_calculator: str = opt(
        "kl", "divergence D: Kullback-Leibler, or Wasserstein between a batch's points", choices=("kl", "w")
    )
    temperature: float = opt(1.5, "temperature of the probabilities that are compared")
    kl_direction: str = opt(
        "forward",
        "forward: KL(all || other), as the paper derives; reverse: KL(other || all), the published code",
        choices=("forward", "reverse"),
    )
    kl_reduction: str = opt(
        "batchmean", "batchmean: per picture; mean: also over the two classes", choices=("batchmean", "mean")
    )
    sinkhorn_input: str = opt(
        "probabilities",
        "what D of mi_calculator w sees of all blocks' score; log: log-probabilities, next to the other's "
        "probabilities (published code): its gradient vanishes",
        choices=("probabilities", "log"),
    )
    balance_loss_method: str = opt(
        "auto",
        "auto: weights are learnt; hyper: --scales; sum: all 1",
        choices=("auto", "hyper", "sum"),
    )
    balance_learning_rate: float = opt(
        0.0, "learning rate of the weights of auto; 0 = --learning_rate; the published code: always 0.001"
    )
    scales: tuple[float, ...] = opt((1.0, 2.0, 10.0), "weights of ce, gil and lil with hyper")
    scales_shift: bool = opt(False, "without gil_loss, lil has the second scale (published code)")

    def __post_init__(self) -> None:
        require_above(self, 0, "temperature")
        require_at_least(self, 0, "balance_learning_rate")
        if len(self.scales) != len(TERMS):
            raise ValueError(f"scales needs {len(TERMS)} weights (ce, gil, lil), got {self.scales}")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        unused: dict[str, str] = {}
        if self.balance_loss_method != "hyper":
            reason = f"balance_loss_method is {self.balance_loss_method}"
            unused |= dict.fromkeys(("scales", "scales_shift"), reason)
        if self.balance_loss_method != "auto":
            unused["balance_learning_rate"] = f"balance_loss_method is {self.balance_loss_method}"
        if self.mi_calculator == "kl":
            unused["sinkhorn_input"] = "mi_calculator is kl"
        else:
            unused |= dict.fromkeys(("kl_direction", "kl_reduction"), "mi_calculator is w")
        return unused


def sinkhorn(x: Tensor, y: Tensor) -> Tensor:
    """Cost of moving points x (N, K) to y (N, K), squared distances, with entropy (Cuturi, NIPS 2013)."""
    cost = (x[:, None] - y[None]).square().sum(2)
    count = len(x)
    marginal = torch.log(torch.full_like(cost[:, 0], 1 / count) + MARGINAL_OFFSET)
    u, v = torch.zeros_like(marginal), torch.zeros_like(marginal)

    def exponent() -> Tensor:
        return (u[:, None] + v[None] - cost) / ENTROPY

    def log_sum(rows: Tensor) -> Tensor:
        return torch.log(rows.exp().sum(1) + SUM_OFFSET)

    for _ in range(MAX_ROUNDS):
        before = u
        u = ENTROPY * (marginal - log_sum(exponent())) + u
        v = ENTROPY * (marginal - log_sum(exponent().T)) + v
        if (u - before).abs().sum() < ENOUGH:
            break
    return (exponent().exp() * cost).sum()


class ExposingLoss(nn.Module):
    """criterion(ExposingOutput, ClipBatch) -> {"total", "ce", "gil", "lil", weights}, scalars."""

    config_type = ExposingLossConfig

    def __init__(self, config: ExposingLossConfig) -> None:
        super().__init__()
        self.config = config
        self.terms = [name for name in TERMS if name == "ce" or getattr(config, f"{name}_loss")]
        if config.balance_loss_method == "auto":
            self.spreads = nn.Parameter(torch.ones(len(self.terms)))

    @property
    def untaught_outputs(self) -> tuple[str, ...]:
        """Scores of heads that no term teaches (see utils/run/training.py)."""
        taught = {"all_scores": self.config.gil_loss, "left_out_scores": self.config.lil_loss}
        return tuple(name for name, is_taught in taught.items() if not is_taught)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The weights of the terms, if they are learnt."""
        rate = self.config.balance_learning_rate
        return [{"params": list(self.parameters()), **({"lr": rate} if rate else {})}]

    def forward(self, output: ExposingOutput, batch: ClipBatch) -> dict[str, Tensor]:
        with torch.autocast(output.logits.device.type, enabled=False):
            shown = ~batch.video_padding_mask
            labels = batch.frame_labels[shown]
            fused, everything, left_out = (
                scores[shown] if scores.dtype == torch.float64 else scores[shown].float()
                for scores in (output.fused_scores, output.all_scores, output.left_out_scores)
            )
            shares = torch.ones_like(labels)
            others = labels
            if output.mixed_labels is not None and output.mixed_share is not None:
                shares, others = output.mixed_share[shown], output.mixed_labels[shown]
            scored = [fused]
            scored += [everything] if self.config.gil_loss else []
            scored += list(left_out.unbind(1)) if self.config.lil_loss else []
            entropies = [mixed_cross_entropy(part, labels, others, shares) for part in scored]
            terms = {"ce": torch.stack(entropies).sum()}
            if self.config.gil_loss:
                terms["gil"] = self.divergence(everything, fused)
            if self.config.lil_loss:
                parts = [self.divergence(everything, part) for part in left_out.unbind(1)]
                terms["lil"] = torch.exp(-torch.stack(parts).sum())
            return {"total": self.balanced(terms), **terms, **self._weights()}

    def divergence(self, everything: Tensor, other: Tensor) -> Tensor:
        """D of two scores (N, 2); without a gradient for the first."""
        c = self.config
        log_all, log_other = (
            F.log_softmax(scores / c.temperature, dim=1) for scores in (everything.detach(), other)
        )
        if c.mi_calculator == "w":
            return sinkhorn(log_all if c.sinkhorn_input == "log" else log_all.exp(), log_other.exp())
        target, of = (log_all, log_other) if c.kl_direction == "forward" else (log_other, log_all)
        elements = target.exp() * (target - of)
        return elements.mean() if c.kl_reduction == "mean" else elements.sum(1).mean()

    def balanced(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms."""
        losses = torch.stack([terms[name] for name in self.terms])
        if self.config.balance_loss_method == "auto":
            squares = self.spreads.to(losses).square()
            return (0.5 / squares * losses + torch.log1p(squares)).sum()
        if self.config.balance_loss_method == "hyper":
            scales = dict(
                zip(self.terms if self.config.scales_shift else TERMS, self.config.scales, strict=False)
            )
            return torch.stack([scales[name] * terms[name] for name in self.terms]).sum()
        return losses.sum()

    def _weights(self) -> dict[str, Tensor]:
        if self.config.balance_loss_method != "auto":
            return {}
        weights = 0.5 / self.spreads.detach().square()
        return {f"weight_{name}": weight for name, weight in zip(self.terms, weights, strict=True)}


def mixed_cross_entropy(scores: Tensor, labels: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """Mean cross-entropy of (N, 2) scores with `labels` (N,) by `shares`, and with `others` by the rest."""
    own, other = (F.cross_entropy(scores, target.long(), reduction="none") for target in (labels, others))
    return (shares * own + (1 - shares) * other).mean()
