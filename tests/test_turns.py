"""More ways to look at an image: turned and upside down (golden by construction, by painting coordinates), gamma and noise."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otherview.data.picture import Picture
from otherview.geometry import Crop, PatchGrid, inside, place
from otherview.nn.positions import relative_code, sincos
from otherview.views.colour import ColourDraw, draw_colour
from otherview.views.crop import cut, draw_crop, planes, take
from otherview.views.device_colour import coloured_alone
from otherview.views.recolour import recolour
from otherview.views.settings import PLAIN, ColourSettings, MaskSettings, ViewSettings
from otherview.views.transforms import PairViews

SIDE, CELL = 96, 8
"""Pixels of a painted image's side; a view is resized so that a patch is so many pixels."""


def painted(crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Source row and column at every patch centre of a view [2, H, W], by real pixels: cut, resized, turned, mirrored."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    image = np.stack([rows, columns, rows * 0], axis=2) * 600  # 16 bits: a pixel is 600 levels
    pixels = planes(take(Picture("it", image.astype(np.uint16)), [crop], size=size)[0], flipped=bool(crop.flipped))
    patches = pixels[:2].astype(np.float64).reshape(2, size[0] // CELL, CELL, size[1] // CELL, CELL)
    return patches.mean(axis=(2, 4)) / 600


crops = st.builds(
    lambda h, w, y, x, flipped, turns: Crop(
        float(round(y * (SIDE - h))), float(round(x * (SIDE - w))), float(h), float(w), flipped, turns
    ),
    st.integers(40, SIDE), st.integers(40, SIDE), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 3),
)  # fmt: skip


@given(crops, crops, st.sampled_from([(4, 4), (3, 5)]), st.sampled_from([(4, 4), (5, 2)]))
def test_the_formula_is_what_pixels_show(
    view: Crop, within: Crop, grid: tuple[int, int], inner: tuple[int, int]
) -> None:
    """Every patch of one view lies where the other view's own pixels say that its content lies."""
    size, inner_size = (CELL * grid[0], CELL * grid[1]), (CELL * inner[0], CELL * inner[1])
    content, frame = painted(view, size), painted(within, inner_size)
    rows, columns = place(view, within=within, grid=PatchGrid(*grid), within_grid=PatchGrid(*inner)).everywhere
    # the frame is an affine map from (row, column) of a patch to source coordinates: fitted to its pixels, not to the formula
    u, v = np.mgrid[0 : inner[0], 0 : inner[1]]
    known = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    affine = frame.reshape(2, -1) @ np.linalg.pinv(known)
    shown = affine @ np.stack([rows.numpy().ravel(), columns.numpy().ravel(), np.ones(rows.numel())])
    # bicubic smooths at the edges, and a patch of the frame is several pixels: within a pixel and a half of the source
    assert np.abs(shown - content.reshape(2, -1)).max() < 1.5


@given(crops, st.sampled_from([(4, 4), (3, 5)]))
def test_a_turned_view_lies_on_itself(view: Crop, grid: tuple[int, int]) -> None:
    found = place(view, within=view, grid=PatchGrid(*grid))
    rows, columns = found.everywhere
    expected = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    torch.testing.assert_close(rows, expected[0])
    torch.testing.assert_close(columns, expected[1])
    assert float(found.row_scale) == pytest.approx(1) and float(found.column_scale) == pytest.approx(1)


@given(crops, crops)
def test_a_batch_is_its_single_views(one: Crop, two: Crop) -> None:
    def batch(*some: Crop) -> Crop:
        return Crop(*(torch.tensor(side) for side in zip(*some, strict=True)))  # pyright: ignore[reportArgumentType]

    grid = PatchGrid(4, 4)
    together = place(batch(one, two), within=batch(two, one), grid=grid)
    for index, (view, within) in enumerate(((one, two), (two, one))):
        alone = place(view, within=within, grid=grid)
        for ours, theirs in zip(together.everywhere, alone.everywhere, strict=True):
            torch.testing.assert_close(ours[index], theirs, rtol=1e-5, atol=1e-5)
        assert (inside(together, grid)[index] == inside(alone, grid)).all()
        code = relative_code(alone, width=16)
        torch.testing.assert_close(relative_code(together, width=16)[index], code, rtol=1e-4, atol=1e-4)


@given(crops, crops)
def test_views_that_never_turn_are_as_before(one: Crop, two: Crop) -> None:
    plain = (one._replace(turns=0), two._replace(turns=0))
    before = place(plain[0], within=plain[1], grid=PatchGrid(4, 4))
    assert not before.crossed
    zero = [crop._replace(turns=torch.tensor(0)) for crop in plain]
    after = place(zero[0], within=zero[1], grid=PatchGrid(4, 4))
    assert not after.crossed
    batch = Crop(*(torch.tensor([side]) for side in plain[0][:5]))
    assert place(batch, within=batch, grid=PatchGrid(4, 4)).never_crossed
    assert torch.equal(relative_code(before, width=32), relative_code(after, width=32))
    half = before.columns
    assert torch.equal(sincos(half, length=8), sincos(after.columns, length=8))


def test_upside_down_is_half_a_turn_and_a_mirror() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    crop = Crop(4.0, 8.0, 32.0, 24.0, False)
    plain = planes(take(Picture("it", image), [crop], size=(32, 24))[0], flipped=False)
    turned = crop._replace(turns=2, flipped=True)
    assert (planes(take(Picture("it", image), [turned], size=(32, 24))[0], flipped=True) == plain[:, ::-1]).all()
    for turns in range(4):
        size = (24, 32) if turns % 2 else (32, 24)
        found = planes(take(Picture("it", image), [crop._replace(turns=turns)], size=size)[0], flipped=False)
        assert (found == np.rot90(plain, turns, axes=(1, 2))).all()


def test_turns_are_drawn_evenly_and_only_where_asked_for() -> None:
    image = Picture("it", np.zeros((50, 60, 3), np.uint8))
    rng, before = Random(0), Random(0)
    for _ in range(50):
        assert draw_crop(image, ViewSettings(), rng).turns == 0
    for _ in range(50):
        draw_crop(image, ViewSettings(), before)
    assert rng.random() == before.random()
    settings = ViewSettings(quarter_turns=True, flip_probability=0.5, vertical_flip_probability=0.5)
    drawn = [draw_crop(image, settings, Random(seed)) for seed in range(1600)]
    counts = np.bincount([2 * int(crop.turns) + crop.flipped for crop in drawn], minlength=8)
    assert len(counts) == 8 and counts.min() > 140 and counts.max() < 260  # the eight symmetries of a square
    upside = ViewSettings(vertical_flip_probability=1, flip_probability=0)
    crop = draw_crop(image, upside, Random(0))
    assert (crop.turns, crop.flipped) == (2, True)


def test_a_step_of_a_turned_run_knows_where_views_lie() -> None:
    from torch.utils.data import default_collate

    from otherview.methods.build import build
    from otherview.recipes.registry import find

    config = find("siamese_im_cpu_adamw").make()
    views = config.views.model_copy(update={"quarter_turns": True, "vertical_flip_probability": 0.5})
    learner = build(config.method, encoder=config.encoder, views=views, seed=0)
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    batch = default_collate([learner.views(Picture("it", image), Random(seed)) for seed in range(8)])
    assert batch.online.crop.turns.unique().numel() > 1
    context = learner.prepare([batch], 0.0)
    loss = learner(batch, context, 0).total
    loss.backward()
    assert torch.isfinite(loss)
    online, target = learner._crops(batch)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(online.turns, batch.online.crop.turns) and target.turns.shape == (8,)


def test_views_that_are_not_square_can_be_turned() -> None:
    settings = ViewSettings(
        quarter_turns=True,
        online_colour=PLAIN,
        target_colour=PLAIN,
        mask=MaskSettings(kind="none"),
        crop_share=(0.5, 1),
    )
    make = PairViews(settings, (16, 40), PatchGrid(2, 5))
    image = Picture("it", np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8))
    for seed in range(12):
        pair = make(image, Random(seed))
        assert pair.online.pixels.shape == pair.target.pixels.shape == (3, 16, 40)
    assert cut(image.reduced(1.0), Crop(0.0, 0.0, 40.0, 16.0, False, 1), size=(16, 40)).shape == (16, 40, 3)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gamma_and_noise_work_on_any_channels(channels: int, dtype: type) -> None:
    white = np.iinfo(dtype).max
    pixels = np.broadcast_to(np.linspace(0, white, 64).astype(dtype)[None, :, None], (48, 64, channels)).copy()
    curved = recolour(pixels, ColourDraw(gamma=2.0))
    assert curved.dtype == dtype and np.abs(curved / white - (pixels / white) ** 2).max() <= 0.51 / white
    noisy = recolour(np.full_like(pixels, white // 2), ColourDraw(noise=0.1, noise_seed=7))
    assert noisy.shape == pixels.shape and noisy.std() / white == pytest.approx(0.1, rel=0.05)
    assert (noisy == recolour(np.full_like(pixels, white // 2), ColourDraw(noise=0.1, noise_seed=7))).all()
    gray = np.broadcast_to(pixels[..., :1], (48, 64, 3))  # gray stays gray
    assert np.ptp(recolour(gray, ColourDraw(noise=0.2, gamma=0.7)), axis=2).max() == 0


def test_gamma_and_noise_are_drawn_only_where_asked_for() -> None:
    rng, same = Random(3), Random(3)
    plain = [draw_colour(ColourSettings(), rng) for _ in range(30)]
    more = [draw_colour(ColourSettings(gamma=0.5, noise=0.1), Random(seed)) for seed in range(400)]
    assert all(draw.gamma == 1 and draw.noise == 0 for draw in plain)
    assert [draw_colour(ColourSettings(), same) for _ in range(30)] == plain
    gammas, noises = np.array([draw.gamma for draw in more]), np.array([draw.noise for draw in more])
    assert gammas.min() >= 1 / 1.5 and gammas.max() <= 1.5 and abs(np.log(gammas).mean()) < 0.03
    assert noises.min() >= 0 and noises.max() <= 0.1 and len({draw.noise_seed for draw in more}) == 400


def test_the_device_does_not_repeat_gamma_and_noise() -> None:
    image = Picture("it", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    settings = ViewSettings(online_colour=ColourSettings(gamma=0.5, noise=0.05, hue=0), mask=MaskSettings(kind="none"))
    for seed in range(6):
        pairs = [
            PairViews(settings.model_copy(update={"colour_on": where}), (32, 32), PatchGrid(4, 4))(image, Random(seed))
            for where in ("workers", "device")
        ]
        shown = [coloured_alone(pair.online).int() for pair in pairs]
        assert (shown[0] - shown[1]).abs().max() <= 2
