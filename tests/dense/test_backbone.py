"""The windowed backbone equals transformers' VitDet on random weights; an encoder becomes one without loss."""

import math

import pytest
import torch

from otherview.dense.settings import WindowSettings
from otherview.dense.windows import STRIDES, SimplePyramid, patches_of, windowed
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings

WIDTH, DEPTH, HEADS, PATCH = 48, 4, 3, 4
TINY = EncoderSettings(image_size=(32, 32), patch_size=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS)


def renamed(name: str) -> str | None:
    """A name of transformers' VitDet in timm's words."""
    if name == "embeddings.position_embeddings":
        return None
    pairs = (
        ("embeddings.projection", "patch_embed.proj"), ("encoder.layer.", "blocks."), ("attention.", "attn."),
        ("layer_norm", "norm"), ("norm1", "norm1"),
    )  # fmt: skip
    for theirs, ours in pairs:
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize(("side", "window"), [(64, 8), (72, 7)])
def test_parity_with_transformers_vitdet(side: int, window: int) -> None:
    """72 px are 18 patches: windows of 7 are padded."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VitDetConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=side, pretrain_image_size=side,
        patch_size=PATCH, window_block_indices=[0, 2], window_size=window, use_relative_position_embeddings=True,
        residual_block_indices=[],
    )  # fmt: skip
    theirs = transformers.VitDetModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in theirs.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    settings = WindowSettings(window=window, global_blocks=(1, 3), drop_path=0.0)
    ours = windowed(Encoder(TINY), size=side, settings=settings).eval()
    state = {ours_name: value for name, value in theirs.state_dict().items() if (ours_name := renamed(name))}
    grid = side // PATCH
    state["pos_embed"] = theirs.embeddings.position_embeddings[:, 1:].view(1, grid, grid, WIDTH)
    ours.load_state_dict(state)  # strictly: every tensor has its place
    images = torch.randn((2, 3, side, side), generator=generator)
    with torch.no_grad():
        expected, found = theirs(images).last_hidden_state, patches_of(ours, images)
    assert ((found - expected).norm() / expected.norm()) < 1e-5


def test_without_windows_the_backbone_is_the_encoder() -> None:
    """With all blocks global and positions as they were, patches are those of an encoder whose cls nobody attends to."""
    settings = WindowSettings(window=0, global_blocks=(), relative_positions=False, drop_path=0.0)
    encoder = Encoder(TINY)
    backbone = windowed(encoder, size=64, settings=settings).eval()
    images = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = encoder.vit.patch_embed(images).flatten(1, 2) + encoder.positions(PatchGrid(16, 16), images.device)
        for block in encoder.vit.blocks:
            tokens = block(tokens)
        found = patches_of(backbone, images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, tokens, rtol=1e-4, atol=1e-5)


def test_relative_positions_start_at_zero_and_everything_learns() -> None:
    backbone = windowed(Encoder(TINY), size=64, settings=WindowSettings(window=8, global_blocks=(3,)))
    tables = [value for name, value in backbone.named_parameters() if "rel_pos" in name]
    assert len(tables) == 2 * DEPTH and all((value == 0).all() for value in tables)
    assert [len(value) for value in tables] == [15, 15] * 3 + [31, 31]
    assert all(value.requires_grad for value in backbone.parameters())


@pytest.mark.parametrize(("patch", "side"), [(4, 64), (8, 64), (14, 112), (16, 128)])
def test_levels_of_the_pyramid_have_their_strides(patch: int, side: int) -> None:
    levels = SimplePyramid(WIDTH, 16)(torch.randn(1, WIDTH, side // patch, side // patch))
    for level, stride in zip(levels.values(), STRIDES, strict=True):
        assert level.shape[1] == 16 and level.shape[2] == math.ceil(side / (stride * patch)), (patch, stride)
