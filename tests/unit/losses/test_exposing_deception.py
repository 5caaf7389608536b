"""The objective of Exposing the Deception: numbers that the published code gave, and what it should be."""

import pytest
import torch

from losses.exposing_deception import ExposingLoss, ExposingLossConfig, sinkhorn
from models.exposing_deception import ExposingOutput
from models.exposing_deception.config import PRESETS
from tests.parity.exposing_deception import as_batch

RELEASED = PRESETS["released"]["loss"]
FUSED = [[1.0, -0.5], [-0.25, 0.75], [2.0, 1.0]]
ALL = [[0.5, -1.5], [0.4, 0.6], [0.2, 0.9]]
LEFT_OUT = [
    [[0.2, 0.1], [-0.3, 0.4], [0.0, 0.6]],
    [[1.2, -0.7], [0.5, -0.5], [0.3, 0.1]],
    [[-0.4, 0.9], [0.1, 0.2], [1.0, -1.0]],
]
LABELS = torch.tensor([0.0, 1.0, 1.0])
GIL, LIL, CE = 0.033060348658, 0.814507373603, 3.668126893969


def scores(dtype=torch.float64, **more):
    """Three pictures with three blocks, as the specification has them."""
    fused, everything, left_out = (
        torch.tensor(values, dtype=dtype).requires_grad_() for values in (FUSED, ALL, LEFT_OUT)
    )
    output = ExposingOutput(
        logits=fused[:, 1] - fused[:, 0],
        fused_scores=fused[:, None],
        all_scores=everything[:, None],
        left_out_scores=left_out.transpose(0, 1)[:, None],
        **more,
    )
    return output, (fused, everything, left_out)


def criterion(**fields):
    return ExposingLoss(ExposingLossConfig(**{**RELEASED, **fields}))


def terms_of(output, **fields):
    found = criterion(**fields)(output, as_batch(LABELS))
    return {name: value.item() for name, value in found.items()}


def test_terms_are_those_of_the_published_code():
    output, _ = scores()
    terms = terms_of(output, balance_loss_method="sum")
    assert terms == pytest.approx({"ce": CE, "gil": GIL, "lil": LIL, "total": CE + GIL + LIL}, abs=1e-11)
    for switches, expected in (
        ({"lil_loss": False}, {"ce": 0.985396527443, "gil": GIL}),
        ({"gil_loss": False}, {"ce": 3.292042584199, "lil": LIL}),
        ({"gil_loss": False, "lil_loss": False}, {"ce": 0.609312217673}),
    ):
        terms = terms_of(output, balance_loss_method="sum", **switches)
        assert terms.pop("total") == pytest.approx(sum(expected.values()), abs=1e-11)
        assert terms == pytest.approx(expected, abs=1e-11)


def test_divergences_pass_gradients_to_the_compared_scores_alone():
    output, (fused, everything, left_out) = scores()
    terms = criterion(balance_loss_method="sum")(output, as_batch(LABELS))
    (of_fused,) = torch.autograd.grad(terms["gil"], fused, retain_graph=True)
    (of_left_out,) = torch.autograd.grad(terms["lil"], left_out, retain_graph=True)
    expected = torch.tensor([-0.00728192, -0.01328340, 0.02822723], dtype=torch.float64)
    torch.testing.assert_close(of_fused, torch.stack([expected, -expected], dim=1), atol=1e-8, rtol=0)
    expected = torch.tensor([0.02862677, 0.00714559, -0.00144959], dtype=torch.float64)
    torch.testing.assert_close(of_left_out[0], torch.stack([expected, -expected], dim=1), atol=1e-8, rtol=0)
    for name in ("gil", "lil"):
        assert torch.autograd.grad(terms[name], everything, retain_graph=True, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("fields", "divergence"),
    [
        ({"kl_reduction": "batchmean"}, 0.066120697316),
        ({"kl_direction": "forward"}, 0.033633071941),
        ({"kl_direction": "forward", "kl_reduction": "batchmean"}, 2 * 0.033633071941),
    ],
)
def test_direction_and_reduction_of_the_divergence(fields, divergence):
    assert terms_of(scores()[0], **fields)["gil"] == pytest.approx(divergence, abs=1e-11)


def test_balancing():
    output, _ = scores()
    auto = criterion()
    terms = auto(output, as_batch(LABELS))
    assert terms["total"].item() == pytest.approx(4.337288849795, abs=1e-11)
    assert [terms[f"weight_{name}"].item() for name in ("ce", "gil", "lil")] == [0.5] * 3
    auto.spreads.data = torch.tensor([0.5, 2.0, 1.5])
    terms = auto(output, as_batch(LABELS))
    assert terms["total"].item() == pytest.approx(10.532624430188, abs=1e-11)
    terms["total"].backward()
    assert auto.spreads.grad.tolist() == pytest.approx([-28.545015, 0.795867, 0.681741], rel=1e-6)
    hyper = {"balance_loss_method": "hyper", "scales": (1.0, 2.0, 10.0)}
    assert terms_of(output, **hyper)["total"] == pytest.approx(11.879321327310, abs=1e-11)
    for shifts, scale in ((False, 10), (True, 2)):
        without = terms_of(output, **hyper, gil_loss=False, scales_shift=shifts)
        assert without["total"] == pytest.approx(without["ce"] + scale * without["lil"])


def test_mixup_shares_the_cross_entropy():
    others = torch.tensor([[1.0], [0.0], [1.0]])
    share = torch.full((3, 1), 0.3, dtype=torch.float64)
    terms = terms_of(scores(mixed_labels=others, mixed_share=share)[0])
    found = [terms[name] for name in ("ce", "gil", "lil")]
    assert found == pytest.approx([4.881460227302, GIL, LIL], abs=1e-10)


def test_wasserstein_as_published():
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.1], [1.0, 0.1]])
    assert sinkhorn(x, y).item() == pytest.approx(0.00999998, rel=1e-4)
    output, _ = scores(torch.float32)
    loss = criterion(mi_calculator="w")
    everything = output.all_scores[:, 0]
    divergences = [
        loss.divergence(everything, part).item() for part in output.left_out_scores[:, 0].unbind(1)
    ]
    assert divergences == pytest.approx([3.36457, 3.35230, 3.22727], rel=1e-4)
    terms = terms_of(output, mi_calculator="w")
    assert (terms["gil"], terms["lil"]) == pytest.approx((3.30507, 4.8008e-05), rel=1e-4)


def test_the_published_wasserstein_term_teaches_nothing_and_the_corrected_one_does():
    norms = {}
    for sinkhorn_input in ("log", "probabilities"):
        output, (_, _, left_out) = scores()
        loss = criterion(mi_calculator="w", sinkhorn_input=sinkhorn_input)
        loss(output, as_batch(LABELS))["lil"].backward()
        norms[sinkhorn_input] = left_out.grad.norm().item()
    assert norms["log"] < 1e-4
    assert norms["probabilities"] > 1e-2
    same = torch.softmax(torch.tensor(ALL), dim=1)
    assert sinkhorn(same, same).item() < 0.01
    assert sinkhorn(same.log(), same).item() > 2


def test_padded_frames_count_for_nothing():
    output, _ = scores()
    expected = terms_of(output)
    batch = as_batch(torch.cat([LABELS, LABELS[:1]]))
    batch.video_padding_mask[3] = True
    padded = ExposingOutput(
        logits=torch.zeros(4),
        **{
            name: torch.cat([getattr(output, name), getattr(output, name)[:1] + 9])
            for name in ("fused_scores", "all_scores", "left_out_scores")
        },
    )
    found = {name: value.item() for name, value in criterion()(padded, batch).items()}
    assert found == pytest.approx(expected)


def test_flags_without_effect_are_named():
    unused = ExposingLossConfig().unused()
    assert unused.keys() == {"scales", "scales_shift", "sinkhorn_input"}
    unused = ExposingLossConfig(mi_calculator="w", balance_loss_method="hyper").unused()
    assert unused.keys() == {"kl_direction", "kl_reduction", "balance_learning_rate"}
    with pytest.raises(ValueError, match="scales needs 3 weights"):
        ExposingLossConfig(scales=(1.0, 2.0))
    with pytest.raises(ValueError, match="temperature"):
        ExposingLossConfig(temperature=0.0)
