"""Several processes under torchrun, one per device: who is who, and what they tell each other.

`torchrun --nproc_per_node 4 train.py ...` starts them; in a single process all of this does nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import FrameworkError
from utils.types import ClipBatch, DetectorOutput, map_tensors

# longer than one process may be alone with its work (a report, a checkpoint, a first compilation)
TIMEOUT = timedelta(minutes=30)
# what the collectives say of a process that is gone
LOST_CONTACT = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out")
Record = TypeVar("Record")


class LostContactError(FrameworkError):
    """Another process of the run has ended."""


class StopWaiting(BaseException):
    """A signal asked the run to stop while one of its processes waited for a batch."""


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's number, 0 to world_size() - 1; 0 is the main one, which writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes compute together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def local_processes() -> int:
    """How many of the processes share this machine's cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect the processes that torchrun started, NCCL between GPUs and gloo between CPUs; nothing to do
    for a single one.

    An error in one process is raised there as it is. The others lose contact to it: LostContactError.
    """
    if not launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # with gloo for what lies in CPU memory, plain values are exchanged without waiting for the GPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    if not is_main():  # what all of them find out, the main one says
        logging.disable(logging.WARNING)
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error) for word in LOST_CONTACT):
            message = f"process {rank()} lost contact to the others; the first error in the output says why"
            raise LostContactError(message) from error
        raise
    # not after an error: the others wait in a collective that this process would wait for in turn
    dist.destroy_process_group()


def gather_objects(value: Any) -> list[Any]:
    """`value` of every process, in order of rank; small Python values, sent through CPU memory."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def deal_out(items: Sequence[Record]) -> list[Record]:
    """This process's share of `items`, round robin; `collect` is the inverse."""
    return list(items[rank() :: world_size()])


def collect(items: Sequence[Record] | None) -> list[Record]:
    """What the processes made of their shares, in the order of what was dealt out. The same on all ranks.

    None: this process was asked to stop; all of them then raise StopWaiting.
    """
    shares = gather_objects(None if items is None else list(items))
    if None in shares:
        raise StopWaiting
    return [share[turn] for turn in range(len(shares[0])) for share in shares if turn < len(share)]


class _Gather(torch.autograd.Function):
    """Tensors (B, ...) of every process -> (world * B, ...) in order of rank, all in one exchange.

    Every process computes the same loss of what was gathered, and DistributedDataParallel takes the mean of
    their parameter gradients, where the sum belongs: backward hands each process the gradient of its own
    rows, times the number of processes.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        parts = [tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in tensors]
        own = torch.cat(parts)
        everyone = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(everyone, own)
        sizes = [len(part) for part in parts]
        pieces = zip(*(bytes_of.split(sizes) for bytes_of in everyone), strict=True)
        gathered = tuple(
            torch.cat(piece).view(tensor.dtype).view(world_size() * len(tensor), *tensor.shape[1:])
            for tensor, piece in zip(tensors, pieces, strict=True)
        )
        ctx.rows = [len(tensor) for tensor in tensors]
        ctx.mark_non_differentiable(
            *(all_rows for all_rows, own in zip(gathered, tensors, strict=True) if not own.requires_grad)
        )
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(
            gradient[rank() * rows : (rank() + 1) * rows] * world_size() if needed else None
            for gradient, rows, needed in zip(gradients, ctx.rows, ctx.needs_input_grad, strict=True)
        )


def gather_batch(
    output: DetectorOutput, batch: ClipBatch, clip_ids: tuple[str, ...]
) -> tuple[DetectorOutput, ClipBatch]:
    """What a loss reads of all processes' batches, in order of rank, so that it sees the global batch.

    `batch` and `clip_ids` come from `pad_to_longest`. Every tensor of `output`, whatever fields a method
    adds, must have the clips in its first dimension. The raw signals stay where they are: `video` of the
    gathered batch is empty, (B, 3, T, 0, 0), and so is its `waveform`, (B, 0). Gradients: see _Gather.
    """
    batch = dataclasses.replace(
        batch,
        video=batch.video[..., :0, :0],
        waveform=batch.waveform[:, :0],
        audio_padding_mask=batch.audio_padding_mask[:, :0],
    )
    tensors: list[Tensor] = []

    def collect_tensor(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(output, collect_tensor)
    map_tensors(batch, collect_tensor)
    gathered = iter(_Gather.apply(*tensors))
    output = map_tensors(output, lambda _: next(gathered))
    return output, map_tensors(batch, lambda _: next(gathered), clip_ids=clip_ids)


def pad_to_longest(batch: ClipBatch | None) -> tuple[ClipBatch, tuple[str, ...]]:
    """The batch, padded to the longest one of all processes, and the clip ids of all of them.

    Each process then computes what it would compute as a part of the whole batch, and what they make of it
    can be gathered. None: this process was asked to stop; all of them then raise StopWaiting.
    """
    everyone = gather_objects(None if batch is None else (batch.lengths, batch.clip_ids))
    if batch is None or None in everyone:
        raise StopWaiting
    clip_ids = tuple(clip_id for _, ids in everyone for clip_id in ids)
    longest = [max(column) for column in zip(*(lengths for lengths, _ in everyone), strict=True)]
    return batch.padded_to(longest), clip_ids


@torch.no_grad()
def same_buffers(module: nn.Module) -> None:
    """Give all processes the main one's buffers, e.g. the running statistics of batch norm."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
