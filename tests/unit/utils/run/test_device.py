import pytest
import torch

from utils.run.device import resolve_precision


@pytest.mark.parametrize(("major", "expected"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_auto_is_bf16_only_where_the_gpu_computes_it(monkeypatch, major, expected):
    """A T4 (7.5) emulates bf16: torch calls that supported by default."""

    def is_supported(including_emulation=True):
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert resolve_precision("auto", torch.device("cuda")) == expected
    assert resolve_precision("bf16", torch.device("cuda")) == "bf16"  # asked for


@pytest.mark.parametrize("has_amx", [False, True])
@pytest.mark.parametrize("has_avx512", [False, True])
def test_auto_on_a_cpu_is_bf16_with_either_instruction_set(monkeypatch, has_amx, has_avx512):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512)
    expected = "bf16" if has_amx or has_avx512 else "fp32"
    assert resolve_precision("auto", torch.device("cpu")) == expected
