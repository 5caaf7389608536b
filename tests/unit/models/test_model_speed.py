"""Options that make a training step faster or smaller do not change its numbers."""

import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from losses.beyond_masking import BeyondMaskingLoss, BeyondMaskingLossConfig
from models.beyond_masking.config import BeyondMaskingConfig
from models.beyond_masking.video import MaskedVideoEncoder
from tests.clip_factory import make_batch
from tests.unit.models.beyond_masking.test_detector import build, pad_time
from utils.errors import UsageError
from utils.run.device import require_compiler
from utils.run.training import StepReader, compile_model

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def gradients(model, batch):
    """Loss terms, gradients and buffers after one pass."""
    criterion = BeyondMaskingLoss(BeyondMaskingLossConfig())
    terms = criterion(model(batch), batch)
    terms["total"].backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return terms, named, dict(model.named_buffers())


@pytest.mark.parametrize("encoder", ["conv3d", "r3d_18"])
@pytest.mark.parametrize("extra_frames", [0, 5])
def test_checkpointed_activations_give_the_same_gradients_and_statistics(encoder, extra_frames):
    num_clips, num_frames = (4, 10) if encoder == "conv3d" else (2, 4)  # r3d_18 is a hundred times as large
    batch = pad_time(make_batch(num_clips, num_frames), extra_frames=extra_frames, extra_samples=0)
    results = []
    for checkpoint_activations in (False, True):
        changes = {"video_encoder": encoder, "landmark_teacher": "random"}
        model = build(checkpoint_activations=checkpoint_activations, **changes).train()
        results.append(gradients(model, batch))
    if encoder == "conv3d":  # its first block is computed clip by clip: sums are added in another order
        largest = max(value.abs().max().item() for value in results[0][1].values())
        for part, atol in zip(range(3), (1e-5, 1e-5 * largest, 1e-6), strict=True):
            torch.testing.assert_close(results[1][part], results[0][part], rtol=1e-5, atol=atol)
    else:
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    _, _, buffers = results[1]
    counts = [value.item() for name, value in buffers.items() if name.endswith("num_batches_tracked")]
    assert set(counts) == {1}


def test_torchs_own_checkpointing_gives_the_same_numbers_as_clip_by_clip(monkeypatch):
    batch = make_batch(4)
    changes = {"video_encoder": "conv3d", "landmark_teacher": "random"}
    plain = gradients(build(checkpoint_activations=False, **changes).train(), batch)
    monkeypatch.setenv("PLAIN_TORCH", "1")
    monkeypatch.setattr("models.beyond_masking.clip_by_clip.run_clip_by_clip", None)  # it is not used
    model = build(checkpoint_activations=True, **changes).train()
    torch.testing.assert_close(gradients(model, batch), plain, rtol=0, atol=0)


def test_bf16_activations_stay_bf16_between_the_convolutions_and_give_the_same_numbers():
    results = []
    for pool in (None, torch.nn.MaxPool3d((1, 2, 2))):  # torch's own is in float32 under a CPU's autocast
        torch.manual_seed(0)
        encoder = MaskedVideoEncoder(BeyondMaskingConfig(video_channels=(8, 16))).train()
        types = []
        for index, layer in enumerate(encoder.encoder.layers):
            if pool is not None and isinstance(layer, torch.nn.MaxPool3d):
                encoder.encoder.layers[index] = layer = pool
            layer.register_forward_hook(lambda _, inputs, output, types=types: types.append(output.dtype))
        video = torch.rand(2, 3, 6, 32, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = encoder(video, None)
        features.square().sum().backward()
        results.append((features, [parameter.grad for parameter in encoder.parameters()]))
        assert features.dtype == torch.float32
        assert (set(types) == {torch.bfloat16}) == (pool is None)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def saved_bytes(checkpoint_activations):
    """What one pass keeps for the backward pass, each storage once."""
    fields = {"video_channels": (8, 16, 32), "checkpoint_activations": checkpoint_activations}
    encoder = MaskedVideoEncoder(BeyondMaskingConfig(**fields)).train()
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = encoder(torch.rand(2, 3, 6, 32, 32), None)
    assert features.requires_grad
    return sum(storages.values())


def test_checkpointed_activations_keep_a_fraction():
    assert saved_bytes(True) < 0.2 * saved_bytes(False)


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_a_compiled_model_gives_the_eager_ones_numbers(checkpoint_activations):
    """Its graphs, forward and backward; the next test has the video encoder's in C++."""
    batch = make_batch(4)
    channels = (4, 4) if checkpoint_activations else (4,)  # the last block is not computed clip by clip
    small = {"landmark_teacher": "random", "stream_layers": 1, "video_channels": channels}
    model = build(**small).train()
    expected = gradients(model, batch)
    compiled = build(**small, checkpoint_activations=checkpoint_activations).train()
    compiled.compile = functools.partial(compiled.compile, backend="aot_eager")
    compile_model(compiled)
    assert compiled.state_dict().keys() == model.state_dict().keys()  # checkpoints stay as they are
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    actual = gradients(compiled, batch)
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 100  # it did compile
    assert_about_equal(actual, expected)


def test_the_video_encoder_in_c_plus_plus_gives_the_eager_ones_numbers(tmp_path, monkeypatch):
    try:
        require_compiler(CPU)
    except UsageError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    fields = {"video_channels": (4,), "feature_dim": 16, "checkpoint_activations": False}
    video, results = torch.rand(2, 3, 6, 16, 16), []
    for compiles in (False, True):
        torch.manual_seed(0)
        encoder = MaskedVideoEncoder(BeyondMaskingConfig(**fields)).train()
        if compiles:
            torch._dynamo.reset()
            compile_model(encoder)
        features = encoder(video, None)
        features.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
        results.append(({"features": features}, gradients, dict(encoder.named_buffers())))
    assert list(tmp_path.rglob("*.so"))  # it did compile
    assert_about_equal(results[1], results[0])


def assert_about_equal(actual, expected):
    """Terms, gradients and buffers: other kernels round in other places."""
    terms, grads, buffers = ({k: v.double() for k, v in part.items()} for part in actual)
    for name, value in expected[0].items():
        torch.testing.assert_close(terms[name], value.double(), rtol=1e-4, atol=1e-6)
    largest = max(grad.abs().max() for grad in expected[1].values()).item()
    for name, grad in expected[1].items():
        torch.testing.assert_close(grads[name], grad.double(), rtol=1e-3, atol=1e-4 * largest, msg=name)
    for name, value in expected[2].items():
        torch.testing.assert_close(buffers[name], value.double(), rtol=1e-4, atol=1e-5, msg=name)


def test_a_compiled_transformer_scores_in_bf16_as_an_eager_one(monkeypatch):
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 3, 8).bfloat16()
    outputs = []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs.append(layer(x))
        monkeypatch.setattr(layer, "compile", functools.partial(layer.compile, backend="aot_eager"))
        compile_model(layer)
        outputs.append(layer(x))
    assert outputs[0].dtype == outputs[1].dtype == torch.bfloat16
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0.03)  # two steps of bf16 at 2


def test_without_a_compiler_compiling_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert shutil.which("g++") is None
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler"):
        require_compiler(CPU)


def test_the_reader_names_the_clips_of_the_step_that_was_not_finite():
    reader = StepReader(CPU)
    reader.lag = 1  # as on a GPU
    good, bad = {"total": torch.tensor(1.5)}, {"total": torch.tensor(torch.nan)}
    assert reader.submit(good, ("a",), {"learning_rate": 0.1}) == []
    assert reader.submit(bad, ("b",), {"learning_rate": 0.2}) == [{"total": 1.5, "learning_rate": 0.1}]
    with pytest.raises(Exception, match="total is nan on the batch of clips b;"):
        reader.submit(good, ("c",), {"learning_rate": 0.3})


def test_padding_a_batch_leaves_its_clips_as_they_were():
    batch = make_batch(3, num_frames=10)
    longer = batch.padded_to((14, batch.waveform.shape[1] + 5000))
    model = build().eval()
    torch.testing.assert_close(model(longer).logits, model(batch).logits, rtol=1e-4, atol=1e-5)
    assert longer.video_padding_mask[:, 10:].all()
    assert longer.landmark_padding_mask[:, 10:].all()
    assert batch.padded_to((10, batch.waveform.shape[1])) is batch
    assert dataclasses.replace(longer).video.shape[2] == 14


@pytest.mark.parametrize(("command", "wish"), [("train", None), ("test", None), ("utils", "0")])
def test_large_tensors_take_huge_pages_where_they_may(command, wish):
    """256 MB after all imports of a command, or of what sets it up. The system may give huge pages to all
    programs, or to none. Torchvision, as slow to import as torch itself, waits until a network needs it.
    """
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not offered.is_file():
        pytest.skip("this kernel knows no huge pages")
    source = (
        f"import {command}, sys, torch; from pathlib import Path; tensor = torch.ones(1 << 26); "
        "assert 'torchvision' not in sys.modules; "
        "print(Path('/proc/self/smaps_rollup').read_text().partition('AnonHugePages:')[2].split()[0])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    if wish:
        environment["THP_MEM_ALLOC_ENABLE"] = wish
    printed = subprocess.check_output([sys.executable, "-c", source], cwd=ROOT, env=environment, text=True)
    policy = re.search(r"\[(\w+)\]", offered.read_text())[1]
    expected = {"always": True, "madvise": wish is None, "never": False}[policy]
    assert (int(printed) >= 1 << 15) == expected  # fragmented memory may not give all


def test_a_loaders_worker_does_not_take_the_same_memory_from_the_system_again():
    """Page faults of ten windows' frames, decoded and equalised, after the first two."""
    source = (
        "import numpy, resource\n"
        "from loaders.batches.worker_processes import set_up_worker; set_up_worker(0)\n"
        "for index in range(12):\n"
        "    if index == 2: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    frames = [numpy.ones(60 * 224 * 224 * 3, numpy.uint8) for _ in range(2)]\n"
        "    del frames\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    assert int(subprocess.check_output([sys.executable, "-c", source], cwd=ROOT)) < 1000
