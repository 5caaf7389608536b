"""The flags of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config import opt, require_above, require_at_least, require_between
from utils.run.device import device_flag, precision_flag


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """utils/run/loop_config.py: optimisation, from the first epoch to the last."""

    epochs: int = opt(30, "passes over the training clips")
    learning_rate: float = opt(1e-4, "peak learning rate")
    optimizer: str = opt("adamw", "optimiser", choices=("adamw", "adam"))
    adam_betas: tuple[float, ...] = opt((0.9, 0.999), "decay rates of the optimiser's two running means")
    weight_decay: float = opt(0.01, "weight decay; of --optimizer adam it is an L2 penalty in the gradient")
    decay_vectors: bool = opt(
        True,
        "weight decay also on norms and biases, as in the published code of the methods; false = only on "
        "weights of two dimensions and more, as transformers are often trained",
    )
    schedule: str = opt(
        "cosine",
        "learning rate after the warm-up; waves: to 0 in 150 steps and up again, from the peak and with a "
        "new optimiser in every epoch (published code of exposing_deception); plateau: halved when the "
        "training loss has not fallen for eight epochs; 1e-6 ends the training (published code of td3mf)",
        choices=("cosine", "constant", "waves", "plateau"),
    )
    min_learning_rate: float = opt(
        0.0, "where the cosine ends; layers that learn more slowly end at the same share of their peak"
    )
    warmup_epochs: float = opt(1.0, "epochs over which the learning rate rises from 0")
    max_grad_norm: float = opt(1.0, "gradients are clipped to this norm; 0 = not clipped")
    precision: str = precision_flag()
    balance: str = opt(
        "label",
        "draw equally many training clips of each class: real and fake, or the data set's categories; real = "
        "no fakes, for what is learnt without labels",
        choices=("none", "label", "category", "real"),
    )
    repeat_reals: int = opt(
        1, "times that every real clip comes in an epoch, with --balance none; published code: 4 for FF++"
    )
    select_by: str = opt(
        "val_auc",
        "metric that decides which epoch is the best; val_accuracy: of methods that tell emotions apart",
        choices=("val_auc", "val_loss", "val_accuracy"),
    )
    patience: int = opt(10, "stop after this many epochs without a better one; 0 = never")
    decision_fpr: float = opt(
        0.01, "target error rate on validation clips: reals called fake, and fakes called real"
    )
    segment_clips: int = opt(
        512,
        "where the data say which parts of clips are forged: choose on up to N validation clips how scores "
        "over time become segments; 0 = none",
    )
    segment_stride_s: float = opt(0.2, "seconds from one window to the next where segments are looked for")
    accumulate_steps: int = opt(
        1,
        "split each step into N micro-batches (gradient accumulation): less memory; batch norm, contrastive "
        "pairs and means over frames then see one micro-batch",
    )
    compile: bool = opt(
        False, "torch.compile the model: faster after some minutes; needs a C++ compiler, on a GPU Triton"
    )
    sync_batch_norm: bool = opt(
        True, "under torchrun, compute batch norm over the clips of all processes, as a single process does"
    )
    seed: int = opt(42, "seed of weights, order and windows")
    device: str = device_flag()

    def __post_init__(self) -> None:
        require_above(self, 0, "epochs", "learning_rate", "accumulate_steps", "decision_fpr", "repeat_reals")
        require_above(self, 0, "segment_stride_s")
        require_at_least(self, 0, "seed", "warmup_epochs", "max_grad_norm", "patience", "weight_decay")
        require_at_least(self, 0, "segment_clips")
        require_between(self, 0, self.learning_rate, "min_learning_rate")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas needs two numbers in [0, 1), got {self.adam_betas}")
        if self.decision_fpr >= 0.5:
            raise ValueError(f"decision_fpr must be < 0.5, got {self.decision_fpr}")

    def unused(self) -> dict[str, str]:
        """Field -> why it has no effect in this configuration: giving such a flag is an error."""
        unused = {} if self.weight_decay else {"decay_vectors": "weight_decay is 0"}
        if self.balance != "none":
            unused["repeat_reals"] = f"balance is {self.balance}"
        if self.schedule in {"waves", "plateau"}:
            unused["warmup_epochs"] = f"schedule is {self.schedule}"
        if self.schedule != "cosine":
            unused["min_learning_rate"] = f"schedule is {self.schedule}"
        if not self.segment_clips:
            unused["segment_stride_s"] = "segment_clips is 0"
        return unused
