"""Attention of cls, principal components, matches: against plain arithmetic; and the commands that draw them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from otherview.evaluation.token_pictures import cls_attention, component_colours
from otherview.geometry import Crop, PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.report.drawn_tokens import draw_attention, draw_components, draw_matches
from otherview.views.view import View, ViewPair


@pytest.mark.parametrize(("depth", "registers"), [(1, 0), (3, 2)])
def test_attention_of_cls_is_what_the_last_block_uses(depth: int, registers: int) -> None:
    """The block's own output is rebuilt from the attention that is shown."""
    settings = EncoderSettings(image_size=(32, 32), patch_size=8, width=24, depth=depth, heads=3, registers=registers)
    encoder = Encoder(settings).eval()
    images = torch.randn(2, 3, 32, 32)
    caught: dict[str, torch.Tensor] = {}
    block = encoder.vit.blocks[-1]
    block.attn.register_forward_hook(lambda _m, entered, left: caught.update(entered=entered[0], left=left))  # pyright: ignore
    with torch.no_grad():
        encoder(images)
        shown = cls_attention(encoder, images)
        joined = block.attn.qkv(caught["entered"]).view(2, -1, 3, 3, 8)  # pyright: ignore
        queries, keys, values = joined.permute(2, 0, 3, 1, 4)
        whole = (queries @ keys.transpose(-2, -1) / 8**0.5).softmax(dim=-1)
        rebuilt = block.attn.proj((whole @ values).transpose(1, 2).flatten(2))  # pyright: ignore
    torch.testing.assert_close(rebuilt, caught["left"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shown, whole[:, :, 0, 1 + registers :], rtol=1e-4, atol=1e-6)
    assert (shown.sum(dim=-1) < 1).all()


def test_components_tell_parts_apart_not_positions() -> None:
    """Tokens of two parts plus a strong code of position: the first component is the part."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(50, 16, generator=generator) > 0.5
    position, part = torch.randn(16, 12, generator=generator), torch.randn(12, generator=generator)
    tokens = 10 * position + parts[..., None] * part + 0.01 * torch.randn(50, 16, 12, generator=generator)
    colours = component_colours(tokens)
    assert colours.min() >= 0 and colours.max() <= 1
    first = colours[..., 0].flatten()
    assert abs(float(np.corrcoef(first.numpy(), parts.flatten().numpy())[0, 1])) > 0.9


@pytest.mark.slow
def test_the_pictures_are_drawn(otherview: Callable, result_of: Callable, tmp_path: Path) -> None:
    weights = ("--weights", "random:siamese_im_cpu_adamw", "--data", "shapes:60@48")
    for kind in ("attention", "components", "matches"):
        found = result_of("show", kind, *weights, "--out", f"{kind}.png")
        assert min(Image.open(tmp_path / f"{kind}.png").size) > 300
        assert kind != "matches" or (0 < found["found"] < 1 and found["n"] > 50)
    assert otherview("embed", *weights, "--out", "e.npy").returncode == 0
    near = ("show", "neighbours", "--embedding", "e.npy", "--out", "n.svg")
    assert result_of(*near, "--data", "shapes:60@48")["picture"] == "n.svg"
    for wrong, said in (
        (("show", "attention", *weights, "--first", "60"), "--first 60"),
        ((*near, "--data", "shapes:9"), "has no image shapes:train[9]"),
        ((*near, "--data", "shapes:60@48", "--nearest", "60"), "--nearest 60"),
        (("show", "components", "--weights", "reference:nothing"), "does not ship with otherview"),
    ):
        done = otherview(*wrong)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_colours_in_shares_are_drawn_as_they_are() -> None:
    """Rounded to levels, every principal component and every mask over an image would be black."""
    colours = np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 4, 4, 3)
    figure = draw_components([np.zeros((8, 8, 3), np.uint8)], {"trained": colours})
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert any(np.asarray(one).shape == (4, 4, 3) and float(np.asarray(one).max()) == 1 for one in shown)
    deep = np.full((4, 4, 3), 65535, np.uint16)
    axes = draw_components([deep], {}).axes[0]
    assert np.asarray(axes.images[0].get_array()).max() == 255


def test_every_picture_says_what_its_marks_mean() -> None:
    grid = PatchGrid(2, 2)
    crop = Crop(*(torch.tensor([side]) for side in (0.0, 0.0, 8.0, 8.0)), torch.tensor([False]), torch.tensor([0]))  # pyright: ignore
    view = View(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), crop, torch.zeros(1, 4, dtype=torch.bool))  # pyright: ignore
    everything = np.ones((1, 4), bool)
    matches = draw_matches(ViewPair(view, view), np.arange(4)[None], everything, everything, grid)
    words = [text.get_text() for legend in matches.legends for text in legend.get_texts()]
    assert words == ["where the patch lies", "the patch most similar to it", "found its place", "did not"]
    attention = draw_attention([np.zeros((8, 8, 3), np.uint8)], np.full((1, 2, 2, 2), 0.25))
    ticks = [text.get_text() for axes in attention.axes for text in axes.get_yticklabels()]
    assert "1× (uniform)" in ticks
