"""What a method inherits from models/method.py, and how judging asks for it."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import train
from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset
from models import MODELS
from models.judging.config import JudgeConfig
from models.judging.detector import LoadedDetector
from models.judging.doubts import doubts_of, doubts_of_sound
from models.method import Method, without_decay_of_vectors
from tests.clip_factory import make_batch, make_clip, write_clip_folder
from tests.unit.models.beyond_masking.test_detector import build
from tests.unit.models.mrdf.test_detector import small
from utils.errors import CheckpointError, UsageError
from utils.types import DetectorOutput


class Constant(nn.Module, Method):
    """One logit for every clip: it sees, and hears nothing."""

    inputs = modalities = frozenset({"video"})
    config = None

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return DetectorOutput(logits=self.logit.expand(len(batch.clip_ids)))


def test_one_parameter_group_by_default_and_vectors_without_decay_on_request():
    model = small()
    (group,) = model.parameter_groups()
    assert group["params"] == list(model.parameters())
    decayed, rest = without_decay_of_vectors(model.parameter_groups())
    assert "weight_decay" not in decayed
    assert rest["weight_decay"] == 0.0
    assert {p.ndim for p in rest["params"]} <= {0, 1}
    assert len(decayed["params"]) + len(rest["params"]) == len(group["params"])
    model.fusion.requires_grad_(False)
    assert len(model.parameter_groups()[0]["params"]) == len(group["params"]) - 4


def test_the_readme_says_what_each_preset_decays():
    text = (Path(__file__).resolve().parents[3] / "models" / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` (\w+) \| (adamw?) \| ([\d.e-]+) \| (.*?) \|$", text, re.MULTILINE)
    rows = []
    for model in sorted(MODELS):
        for preset in MODELS[model].presets:
            loop = train.parse_args(["--model", model, "--preset", preset]).loop
            rows.append((model, preset, loop.optimizer, str(loop.weight_decay)))
            assert loop.decay_vectors
    assert [row[:4] for row in told] == rows
    in_groups = {"m2sd"}  # whose own groups leave out norms and biases
    assert all(
        row[4].startswith("decayed") == (float(row[3]) > 0 and row[0] not in in_groups) for row in told
    )


@pytest.mark.parametrize(
    ("flags", "of_vectors"), [((), 0.01), (("--decay_vectors", "false"), 0.0), (("--weight_decay", "0"), 0.0)]
)
def test_norms_and_biases_decay_unless_a_flag_says_otherwise(flags, of_vectors):
    sizes = "--feature_dim 16 --video_channels 4 4 --audio_channels 8 8 8 --feedforward_dim 16"
    state = train.build(train.parse_args([*sizes.split(), *flags]), 1, torch.device("cpu"))
    decays = {p: group["weight_decay"] for group in state.optimizer.param_groups for p in group["params"]}
    assert decays.keys() == {p for p in state.model.parameters() if p.requires_grad}
    assert {decay for p, decay in decays.items() if p.ndim <= 1} == {of_vectors}
    assert {decay for p, decay in decays.items() if p.ndim > 1} == {
        0.0 if "--weight_decay" in flags else 0.01
    }


def test_a_choice_about_no_decay_is_an_error():
    with pytest.raises(UsageError, match="decay_vectors has no effect here: weight_decay is 0"):
        train.parse_args(["--preset", "released", "--decay_vectors", "false"])


def test_methods_without_published_weights_say_so():
    assert Constant.released_fields({}, "x.pth") == {}
    with pytest.raises(CheckpointError, match="no published weights"):
        Constant().load_released({})


def test_only_stages_without_labels_can_do_without_a_class():
    for model in MODELS:
        for preset in MODELS[model].presets:
            flags = ["--model", model, "--preset", preset]
            config = train.parse_args(flags)
            assert config.needs_classes == (preset not in {"m2sd_teacher", "m2sd_expert", "m2sd_pretrain"})
            if not config.needs_classes:
                assert train.parse_args([*flags, "--select_by", "val_auc"]).needs_classes


@pytest.mark.parametrize("make", [build, small, lambda: small(mrdf_variant="avdf_ensemble")])
def test_both_methods_give_an_embedding_of_each_clip(make):
    output = make().eval()(make_batch(3, 10, seconds=0.4))
    assert output.embedding.shape[0] == 3
    assert output.embedding.ndim == 2


@pytest.mark.parametrize(("modalities", "reasons"), [({"video"}, []), ({"video", "audio"}, ["no sound"])])
def test_a_silent_video_is_no_reason_for_a_method_that_only_sees(modalities, reasons):
    model = Constant()
    model.modalities = frozenset(modalities)
    detector = LoadedDetector(model, DataConfig(window_s=0.4), None, device=torch.device("cpu"))
    boxes = np.full((25, 3), 200.0)
    track = SimpleNamespace(has_face=np.ones(25, bool), face_boxes=boxes, num_frames=25)
    video = SimpleNamespace(fps=25, silent=True)
    found = doubts_of(track, video, min_face_px=48.0, window_s=0.4)
    if "audio" in detector.model.modalities:
        found += doubts_of_sound(track, video)
    assert found == reasons
    assert detector.starts_of(1, 25.0, 0.0) == [0]  # a frame is enough


def test_a_logit_that_is_a_view_of_a_parameter_is_judged(tmp_path):
    """Outside of no_grad, such a view asks for a gradient again."""
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=20))
    dataset = ClipDataset([clip], DataConfig(window_s=0.4), training=False, inputs=Constant.inputs)
    detector = LoadedDetector(Constant(), dataset.config, None, device=torch.device("cpu"))
    ((batch, output),) = detector._batches([dataset[0, 0]], JudgeConfig())
    logits, facts, over_time = detector._read(batch, output, JudgeConfig())
    np.testing.assert_array_equal(logits, [[0.0, np.nan, np.nan]])
    assert (facts.shape, over_time.shape) == ((1, 0), (1, 3, 1))
