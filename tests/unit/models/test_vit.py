"""The video transformer and the halves of a masked autoencoder, against the specification's numbers."""

import pytest
import torch

from models.blocks.position import sinusoid_table, sinusoidal_positions
from models.blocks.vit import (
    SIZES,
    MaskedDecoder,
    TubeletViT,
    ViTBlock,
    ViTSize,
    standardised_pixels,
    tube_masks,
    tubelet_pixels,
)

TINY = ViTSize(12, 2, 3)


def video_of(count=2, frames=4, side=32):
    return torch.randn(count, 3, frames, side, side, generator=torch.Generator().manual_seed(0))


def test_tables_of_positions_are_the_specifications():
    table = sinusoid_table(1569, 768)
    torch.testing.assert_close(
        table[1, :4], torch.tensor([0.8415, 0.5403, 0.8284, 0.5601]), atol=5e-5, rtol=0
    )
    last = torch.tensor([-0.3384, -0.9410, -0.7726, -0.6349])
    torch.testing.assert_close(table[1568, :4], last, atol=5e-5, rtol=0)
    torch.testing.assert_close(table[1568, -2:], torch.tensor([0.1599, 0.9871]), atol=5e-5, rtol=0)
    assert table.double().sum().item() == pytest.approx(245857.05, abs=0.01)
    narrow = sinusoid_table(1569, 384)
    torch.testing.assert_close(
        narrow[1, :4], torch.tensor([0.8415, 0.5403, 0.8153, 0.5791]), atol=5e-5, rtol=0
    )
    assert narrow.double().sum().item() == pytest.approx(122480.81, abs=0.01)
    torch.testing.assert_close(narrow[:50], sinusoidal_positions(torch.arange(50), 384), atol=1e-5, rtol=0)


def test_a_class_token_moves_the_tubelets_positions_by_one():
    """As in the published M2SD, and not as in VideoMAE, whose weights it starts from: trap T6."""
    plain, student = TubeletViT(TINY, 4, 32), TubeletViT(TINY, 4, 32, class_token=True)
    assert torch.equal(student.positions[:, :-1], plain.positions)
    assert student.positions.shape[1] == plain.positions.shape[1] + 1 == 9
    seen = []
    student.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    video = video_of()
    tokens = student.patch_embedding(video).flatten(2).transpose(1, 2)
    student(video)
    torch.testing.assert_close(seen[0][:, 1:], tokens + sinusoid_table(9, 12)[1:])
    torch.testing.assert_close(
        seen[0][:, 0], (student.class_token[0] + sinusoid_table(9, 12)[:1]).expand(2, -1)
    )


@pytest.mark.parametrize("class_token", [False, True])
def test_only_visible_tubelets_take_part(class_token):
    torch.manual_seed(0)
    vit, video = TubeletViT(TINY, 4, 32, class_token=class_token), video_of()
    torch.testing.assert_close(vit(video, torch.ones(2, 8, dtype=torch.bool)), vit(video))
    visible = torch.zeros(2, 8, dtype=torch.bool)
    visible[0, [1, 6]], visible[1, [0, 5]] = True, True
    tokens = vit(video, visible)
    assert tokens.shape == (2, 2 + class_token, 12)
    changed = video.clone()
    changed[0, :, 2:, :16, :16] = 9.0  # slot 1, first place: number 4, which is hidden
    torch.testing.assert_close(vit(changed, visible), tokens)
    changed[0, :, 2:, 16:, :16] = 9.0  # slot 1, third place: number 6
    assert not torch.allclose(vit(changed, visible)[0], tokens[0])


def test_the_decoder_knows_which_places_are_masked():
    torch.manual_seed(0)
    decoder = MaskedDecoder(ViTSize(12, 0, 3), 24, 8, (5, 7), class_token=True)
    masked = torch.zeros(2, 8, dtype=torch.bool)
    masked[0, :6], masked[1, 2:] = True, True
    five, seven = decoder(torch.randn(2, 3, 24), masked)
    assert (five.shape, seven.shape) == ((2, 6, 5), (2, 6, 7))
    places = torch.stack([sinusoid_table(9, 12)[1:][row] for row in masked])
    hidden = decoder.norm(decoder.mask_token + places)
    torch.testing.assert_close(five, decoder.heads[0](hidden))


def test_drop_path_skips_whole_clips_in_training_only():
    torch.manual_seed(0)
    vit = TubeletViT(ViTSize(12, 3, 3), 4, 32, drop_path=0.4)
    assert [block.drop_path.p for block in vit.blocks] == pytest.approx([0, 0.2, 0.4])
    block, tokens = ViTBlock(12, 3, drop_path=0.9).train(), torch.randn(200, 4, 12)
    kept = (block(tokens) == tokens).flatten(1).all(1).double().mean()
    assert kept == pytest.approx(0.81, abs=0.08)
    assert not torch.equal(block.eval()(tokens), tokens)


def test_tubes_are_masked_in_all_slots_alike():
    torch.manual_seed(0)
    masks = tube_masks(3, (8, 14, 14), 0.9)
    assert masks.shape == (3, 1568)
    assert masks.sum(1).tolist() == [1408] * 3
    slots = masks.view(3, 8, 196)
    assert (slots == slots[:, :1]).all()
    assert (slots[:, 0].sum(1) == 176).all()
    assert not torch.equal(masks[0], masks[1])


def test_tubelets_pixels_are_by_frames_rows_columns_and_colours():
    t, y, x, c = torch.meshgrid(*map(torch.arange, (4, 32, 48, 3)), indexing="ij")
    video = (1_000_000 * t + 10_000 * y + 10 * x + c).double().permute(3, 0, 1, 2)[None]
    pixels = tubelet_pixels(video)
    assert pixels.shape == (1, 2 * 2 * 3, 1536)
    assert pixels[0, 0, :5].tolist() == [0, 1, 2, 10, 11]
    assert pixels[0, 0, 48].item() == 10_000  # the second row
    assert pixels[0, 0, 768].item() == 1_000_000  # the second frame
    assert pixels[0, [1, 3, 6], 0].tolist() == [160, 160_000, 2_000_000]  # to the right, below, later
    vit = TubeletViT(TINY, 4, 32)
    video = video_of()
    by_hand = tubelet_pixels(video) @ vit.patch_embedding.weight.permute(0, 2, 3, 4, 1).flatten(1).T
    tokens = vit.patch_embedding(video).flatten(2).transpose(1, 2)
    torch.testing.assert_close(by_hand + vit.patch_embedding.bias, tokens, atol=1e-5, rtol=1e-4)


def test_standardised_pixels_are_the_specifications():
    found = standardised_pixels(torch.arange(1536).double() / 1536)
    torch.testing.assert_close(
        found[:4], torch.tensor([-1.7270, -1.7270, -1.7270, -1.7202]).double(), atol=5e-5, rtol=0
    )
    assert found[-1].item() == pytest.approx(1.7270, abs=5e-5)


def test_sizes():
    assert SIZES == {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
