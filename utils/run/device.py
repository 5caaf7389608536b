"""Which device computes, and in which precision. Never a silent change of either."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import torch

from utils.config import opt
from utils.errors import UsageError
from utils.run.distributed import launched


def precision_flag(text: str = "auto = bf16 autocast where the device computes it fast, else fp32") -> Any:
    """A config's field `precision`."""
    return opt("auto", text, choices=("auto", "fp32", "bf16"))


def device_flag() -> Any:
    """A config's field `device`."""
    text = "auto, cpu, cuda or cuda:N; auto = cuda if available; under torchrun each process has its own GPU"
    return opt("auto", text)


def resolve_device(name: str) -> torch.device:
    """A device name (auto, cpu, cuda or cuda:N) -> device; under torchrun cuda is this process's own GPU,
    cuda:LOCAL_RANK. Raises UsageError if it was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if launched() and name.startswith("cuda:"):
        raise UsageError(f"--device {name}: under torchrun each process takes its own GPU; say --device cuda")
    if launched() and name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9]\d?))?", name):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise UsageError(
            f"--device {name}: this machine has {num_gpus} usable CUDA devices; use --device cpu, or check "
            "the driver and that torch is a CUDA build"
        )
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 on a GPU (from Ampere on) or CPU (AMX, AVX512-BF16) that has instructions for it, else
    fp32: a GPU that only emulates bf16 is slower with it.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def require_compiler(device: torch.device) -> None:
    """Raise UsageError unless torch.compile finds what it compiles with: a C++ compiler, on a GPU Triton."""
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        raise UsageError("--compile needs a C++ compiler (g++; Debian: apt-get install g++), and found none")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("--compile needs the package triton on a GPU, and it is not installed")


def set_float32_math(device: torch.device) -> None:
    """What "fp32" means on a GPU: convolutions in TF32 (float32 range, 10 bits of mantissa), as torch and the
    published code have it, matrix products in full.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = False


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context of bf16 autocast on `device` if `precision` is "bf16", of plain float32 if it is "fp32"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """While active, a GPU computes convolutions in float32 too, not in TF32 (11 significant bits)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def uses_plain_torch() -> bool:
    """Whether PLAIN_TORCH=1 in the environment asks for torch's public interface only, where it is slower."""
    return os.environ.get("PLAIN_TORCH", "0") not in ("", "0")
