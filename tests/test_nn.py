from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.data import default_collate

from otherview.data.picture import Picture
from otherview.errors import WrongRequest
from otherview.geometry import PatchGrid
from otherview.methods.build import build_siamese_im
from otherview.methods.target import cosine_momentum, ema_update, frozen_copy
from otherview.nn.encoder import Encoder, embedded_as_product
from otherview.nn.heads import TokenBatchNorm, token_statistics
from otherview.nn.positions import sincos_grid
from otherview.nn.settings import EncoderSettings
from otherview.recipes.registry import find
from tests.ranks import batch_norm_of_rank, in_ranks

SMALL = EncoderSettings(image_size=(16, 24), patch_size=4, width=32, depth=3, heads=4)


@pytest.mark.parametrize("registers", [0, 3])
def test_unmasked_equals_timm(registers: int) -> None:
    settings = SMALL.model_copy(update={"registers": registers})
    encoder = Encoder(settings)
    theirs = VisionTransformer(
        img_size=(16, 24), patch_size=4, embed_dim=32, depth=3, num_heads=4, num_classes=0, global_pool="",
        reg_tokens=registers, no_embed_class=True, final_norm=False, norm_layer=lambda d, **k: nn.LayerNorm(d, eps=1e-6, **k),
    )  # fmt: skip
    theirs.load_state_dict({**encoder.vit.state_dict(), "pos_embed": sincos_grid(encoder.grid, width=32)[None]})
    images = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(encoder(images).sequence, theirs.forward_features(images))


def test_hidden_patches_change_nothing() -> None:
    encoder = Encoder(SMALL)
    images = torch.randn(2, 3, 16, 24)
    visible = torch.tensor([[0, 5, 23], [1, 2, 3]])
    before = encoder(images, visible).sequence
    painted = images.clone()
    painted[0, :, 4:8, 0:4] = 100.0  # patch 6 of the first image
    torch.testing.assert_close(encoder(painted, visible).sequence, before)
    painted[0, :, 0:4, 0:4] = 100.0  # patch 0, visible
    assert not torch.allclose(encoder(painted, visible).sequence[0], before[0])


def test_all_visible_in_order_is_the_whole_image() -> None:
    encoder = Encoder(SMALL)
    images = torch.randn(2, 3, 16, 24)
    everything = torch.arange(24).expand(2, -1)
    torch.testing.assert_close(encoder(images, everything).sequence, encoder(images).sequence)


def test_tokens_by_name() -> None:
    tokens = Encoder(SMALL.model_copy(update={"registers": 2}))(torch.randn(2, 3, 16, 24))
    assert tokens.sequence.shape == (2, 1 + 2 + 24, 32)
    torch.testing.assert_close(tokens.patches, tokens.sequence[:, 3:])
    torch.testing.assert_close(tokens.mean, tokens.sequence[:, 3:].mean(1))
    torch.testing.assert_close(tokens.cls, tokens.sequence[:, 0])


def test_positions_on_another_grid_keep_their_place() -> None:
    """Twice the grid: patch centres lie at −.25, .25, .75 ... of the trained one; the table itself at its own grid."""
    width = 16
    double = sincos_grid(PatchGrid(8, 8), width=width, trained_on=PatchGrid(4, 4))
    frequencies = 10000.0 ** (-torch.arange(4) / 4)
    for row, expected in ((0, -0.25), (1, 0.25), (7, 3.25)):
        torch.testing.assert_close(double[row * 8][:4], torch.sin(expected * frequencies), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        sincos_grid(PatchGrid(4, 4), width=width, trained_on=PatchGrid(4, 4)), sincos_grid(PatchGrid(4, 4), width=width)
    )
    flat = sincos_grid(PatchGrid(3, 5), width=width)
    assert flat.shape == (15, width)
    torch.testing.assert_close(flat[5 * 2 + 4][:8], sincos_grid(PatchGrid(3, 3), width=width)[3 * 2][:8])


def test_initial_weights_follow_the_specification() -> None:
    encoder = Encoder(EncoderSettings(image_size=(32, 32), patch_size=4, width=128, depth=1, heads=4), seed=3)
    qkv = encoder.vit.blocks[0].attn.qkv
    bound = (6 / (128 + 384)) ** 0.5  # xavier over the one 384×128 matrix
    assert 0.97 * bound < qkv.weight.abs().max() <= bound
    assert not qkv.bias.any()
    projection = encoder.vit.patch_embed.proj
    bound = (6 / (128 + 48)) ** 0.5
    assert 0.97 * bound < projection.weight.abs().max() <= bound
    assert 0.8 / 48**0.5 < projection.bias.abs().max() <= 1 / 48**0.5
    assert 0.01 < float(encoder.vit.cls_token.detach().std()) < 0.03
    assert not projection.weight.requires_grad
    assert all(norm.eps == 1e-6 for norm in encoder.modules() if isinstance(norm, nn.LayerNorm))


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Encoder(SMALL, seed=5).state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again, other = Encoder(SMALL, seed=5).state_dict(), Encoder(SMALL, seed=6).state_dict()
    assert (torch.random.get_rng_state() == state).all()
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_images_that_the_patch_does_not_divide() -> None:
    with pytest.raises(WrongRequest, match="17×24"):
        Encoder(SMALL)(torch.randn(1, 3, 17, 24))
    with pytest.raises(WrongRequest, match="patch_size 5"):
        Encoder(SMALL.model_copy(update={"patch_size": 5}))


def test_patches_embedded_as_a_product_are_those_of_the_convolution() -> None:
    """GPUs take the product."""
    embedding = Encoder(EncoderSettings(image_size=(32, 48), patch_size=8, width=32, depth=1, heads=2)).vit.patch_embed
    images = torch.randn(2, 3, 32, 48)
    expected = embedding(images).flatten(1, 2)
    torch.testing.assert_close(embedded_as_product(images, embedding.proj), expected, rtol=1e-5, atol=1e-6)


def test_batch_norm_equals_torch_s() -> None:
    ours, theirs = TokenBatchNorm(8), nn.BatchNorm1d(8)
    tokens = torch.randn(4, 7, 8) * 3 + 5
    torch.testing.assert_close(ours(tokens), theirs(tokens.flatten(0, 1)).view(4, 7, 8))


def test_batch_norm_over_ranks_equals_one_process(tmp_path: Path) -> None:
    tokens, upstream = torch.randn(2, 4, 7, 8) * 2 + 1000, torch.randn(2, 4, 7, 8)
    norm, whole = TokenBatchNorm(8), tokens.clone().requires_grad_()
    out = norm(whole)
    (out * upstream).sum().backward()
    assert whole.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    results = in_ranks(2, batch_norm_of_rank, tmp_path, tokens, upstream)
    for rank, (got, gradient, _, _) in enumerate(results):
        torch.testing.assert_close(got, out.detach()[rank], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(gradient, whole.grad[rank], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(results[0][2] + results[1][2], norm.weight.grad, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(results[0][3] + results[1][3], norm.bias.grad, atol=1e-4, rtol=1e-4)


def test_batch_norm_is_stable_where_the_mean_is_far_larger_than_the_spread() -> None:
    tokens = torch.randn(4096, 3)
    _, variance = token_statistics(tokens + 1e4)
    torch.testing.assert_close(variance, tokens.var(dim=0, unbiased=False), rtol=2e-2, atol=0)


def test_moving_average() -> None:
    online = nn.Linear(3, 2)
    target = frozen_copy(online)
    before = target.weight.clone()
    with torch.no_grad():
        online.weight.add_(1.0)
    ema_update(target, towards=online, momentum=0.9)
    torch.testing.assert_close(target.weight, before + 0.1)
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert [cosine_momentum(p, start=0.99) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.99, 0.995, 1.0])


def test_predictions_may_start_at_nothing() -> None:
    """With predictor_start zero the loss begins at the oracle of y = 0, which is 1; with random it does not."""
    found = {}
    for start in ("zero", "random"):
        config = find("siamese_im_demo").make()
        method = config.method.model_copy(update={"predictor_start": start})
        learner = build_siamese_im(method, encoder=config.encoder, views=config.views, seed=0)
        image = Picture("noise", np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
        batch = default_collate([learner.views(image, Random(index)) for index in range(4)])
        found[start] = float(learner(batch, learner.prepare([batch], 0.0), 0).total.detach())
    assert found["zero"] == pytest.approx(1, abs=1e-4)
    assert abs(found["random"] - 1) > 0.01
