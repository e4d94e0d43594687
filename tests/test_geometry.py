"""Painting coordinates into an image and cropping it for real gives the positions that the formula gives."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from otherview.geometry import Crop, PatchGrid, crop_from_mirrored, place


@st.composite
def images_with_crops(draw: st.DrawFn) -> tuple[int, int, Crop, Crop]:
    height, width = draw(st.integers(8, 61)), draw(st.integers(8, 61))

    def crop() -> Crop:
        h, w = draw(st.integers(2, height)), draw(st.integers(2, width))
        top, left = draw(st.integers(0, height - h)), draw(st.integers(0, width - w))
        return Crop(float(top), float(left), float(h), float(w), draw(st.booleans()))

    return height, width, crop(), crop()


def painted(crop: Crop, *, height: int, width: int, grid: PatchGrid) -> tuple[np.ndarray, np.ndarray]:
    """Source row and column under every patch centre of a crop, by cutting and mirroring painted images.

    Pixel (i, j) carries its centre's coordinates; between pixel centres the painting is linear, so a patch centre is
    read by linear interpolation, and extrapolation where it lies within half a pixel of the border.
    """
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    top, left, h, w = (int(side) for side in crop[:4])
    cut = [plane[top : top + h, left : left + w] for plane in (rows, columns)]
    if crop.flipped:
        cut = [plane[:, ::-1] for plane in cut]

    def read(line: np.ndarray, cells: int) -> np.ndarray:
        at = (np.arange(cells) + 0.5) * len(line) / cells - 0.5
        low = np.clip(np.floor(at).astype(int), 0, len(line) - 2)
        return line[low] + (at - low) * (line[low + 1] - line[low])

    return read(cut[0][:, 0], grid.rows), read(cut[1][0], grid.columns)


@given(images_with_crops(), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_formula_equals_painting(case: tuple[int, int, Crop, Crop], r: int, c: int, r2: int, c2: int) -> None:
    height, width, seen, other = case
    grid, seen_grid = PatchGrid(r, c), PatchGrid(r2, c2)
    placement = place(other, within=seen, grid=grid, within_grid=seen_grid)
    for axis, (ours, cells, start, extent) in enumerate((
        (placement.rows, r2, seen.top, seen.height),
        (placement.columns, c2, seen.left, seen.width),
    )):  # fmt: skip
        source = painted(other, height=height, width=width, grid=grid)[axis]
        share = (source - start) / extent
        if axis == 1 and seen.flipped:
            share = 1 - share
        np.testing.assert_allclose(ours.numpy(), cells * share - 0.5, atol=1e-9)
    assert float(placement.row_scale) * seen.height * r == np.float64(other.height * r2) or np.isclose(
        float(placement.row_scale), other.height / r / (seen.height / r2)
    )


@given(images_with_crops(), st.integers(1, 16))
def test_the_specification_s_own_formula(case: tuple[int, int, Crop, Crop], g: int) -> None:
    """Section 1.6, written down with boxes in the mirrored image."""
    _, width, seen, other = case
    mirrored = {True: lambda crop: width - crop.left - crop.width, False: lambda crop: crop.left}
    left_a, left_b = (mirrored[bool(crop.flipped)](crop) for crop in (seen, other))
    u = np.arange(g)
    di, sh = (other.top - seen.top) / seen.height, other.height / seen.height
    dj, sw = (left_b - left_a) / seen.width, other.width / seen.width
    fj = (width - left_a - left_b) / seen.width
    rows = di * g + sh * (u + 0.5) - 0.5
    columns = fj * g - sw * (u + 0.5) - 0.5 if seen.flipped != other.flipped else dj * g + sw * (u + 0.5) - 0.5
    placement = place(other, within=seen, grid=PatchGrid(g, g))
    np.testing.assert_allclose(placement.rows.numpy(), rows, atol=1e-9)
    np.testing.assert_allclose(placement.columns.numpy(), columns, atol=1e-9)


@given(images_with_crops(), st.integers(1, 12))
def test_a_view_lies_on_itself(case: tuple[int, int, Crop, Crop], g: int) -> None:
    _, _, crop, _ = case
    placement = place(crop, within=crop, grid=PatchGrid(g, g))
    torch.testing.assert_close(placement.rows, torch.arange(g, dtype=torch.float64))
    torch.testing.assert_close(placement.columns, torch.arange(g, dtype=torch.float64))
    assert float(placement.row_scale) == 1.0


@given(images_with_crops())
def test_a_mirrored_box_is_the_same_pixels(case: tuple[int, int, Crop, Crop]) -> None:
    height, width, crop, _ = case
    image = np.arange(height * width).reshape(height, width)
    top, left, h, w = (int(side) for side in crop[:4])
    direct = image[top : top + h, left : left + w]
    direct = direct[:, ::-1] if crop.flipped else direct
    reported = width - left - w if crop.flipped else left
    t = torch.tensor
    back = crop_from_mirrored(
        t(crop.top),
        t(float(reported)),
        height=t(crop.height),
        width=t(crop.width),
        flipped=t(crop.flipped),
        image_width=t(float(width)),
    )
    whole = image[:, ::-1] if crop.flipped else image
    assert (whole[top : top + h, reported : reported + w] == direct).all()
    assert float(back.left) == left


def test_batches_are_the_single_crops() -> None:
    rng = np.random.default_rng(0)
    crops = [Crop(*rng.uniform(1, 50, 4).tolist(), bool(rng.integers(2))) for _ in range(6)]
    batch = Crop(
        *(
            torch.tensor(side, dtype=torch.bool if isinstance(side[0], bool) else torch.float64)
            for side in zip(*crops, strict=True)
        )
    )
    rolled = Crop(*(side.roll(1) for side in batch))
    placements = place(rolled, within=batch, grid=PatchGrid(3, 5))
    for index in range(6):
        single = place(crops[index - 1], within=crops[index], grid=PatchGrid(3, 5))
        for ours, alone in zip(placements, single, strict=True):
            torch.testing.assert_close(ours[index], alone)
