"""Colour against torchvision on PIL images, crops against torchvision's own, and the pair as a pure function."""

from random import Random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.utils.data import default_collate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from otherview.data.image import Reduced
from otherview.data.picture import Picture
from otherview.geometry import Crop, PatchGrid
from otherview.seeding import sample_rng
from otherview.views import colour
from otherview.views.crop import cut, least_scale, planes, sample_crop
from otherview.views.device_colour import blur_kernels, coloured, coloured_alone, normalised
from otherview.views.recolour import recolour
from otherview.views.settings import ColourSettings, MaskSettings, ViewSettings
from otherview.views.transforms import PairViews
from otherview.views.view import normalise, visible_indices


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Smooth areas, edges, noise and saturated colours."""
    rng = np.random.default_rng(0)
    field = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
    pixels = np.asarray(field).astype(int) + rng.integers(-20, 20, (72, 96, 3))
    pixels[20:40, 30:60] = (250, 10, 30)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def difference(ours: np.ndarray, theirs: Image.Image) -> np.ndarray:
    return np.abs(ours.astype(int) - np.asarray(theirs).astype(int))


@pytest.mark.parametrize("factor", [0.6, 0.83, 1.0, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_operations_equal_torchvision(photo: Image.Image, name: str, factor: float) -> None:
    ours = getattr(colour, name)(np.asarray(photo), factor)
    theirs = getattr(tv, f"adjust_{name}")(photo, factor)
    assert difference(ours, theirs).max() <= 1


@pytest.mark.parametrize("shift", [-0.1, -0.03, 0.0, 0.07, 0.1, 0.5])
def test_hue_equals_torchvision(photo: Image.Image, shift: float) -> None:
    """Both go through 8-bit HSV; they round differently, so single pixels differ by a few levels."""
    apart = difference(colour.hue(np.asarray(photo), shift), tv.adjust_hue(photo, shift))
    assert apart.mean() < 1.5
    assert np.quantile(apart, 0.99) <= 8


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_equals_pillow(photo: Image.Image, sigma: float) -> None:
    """Pillow's Gaussian is three box filters; the true one differs by a few levels at edges."""
    apart = difference(colour.blur(np.asarray(photo), sigma), photo.filter(ImageFilter.GaussianBlur(sigma)))
    assert apart.mean() < 1.5
    assert apart.max() <= 30


def test_gray_and_solarise_equal_torchvision(photo: Image.Image) -> None:
    pixels = np.asarray(photo)
    assert difference(colour.gray(pixels), tv.rgb_to_grayscale(photo, num_output_channels=3)).max() <= 1
    assert difference(colour.solarise(pixels), tv.solarize(photo, 128)).max() == 0


def test_the_colour_branch_has_the_reference_s_distribution(photo: Image.Image) -> None:
    """Mean level, contrast and saturation over many draws agree in mean and spread with torchvision's ColorJitter."""
    settings = ColourSettings(blur_probability=0)
    reference = v2.Compose([
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
    ])  # fmt: skip
    small = photo.resize((24, 18))
    rng = Random(0)
    torch.manual_seed(0)

    def figures(pixels: np.ndarray) -> list[float]:
        level = pixels.astype(float)
        return [level.mean(), level.std(), (level.max(axis=2) - level.min(axis=2)).mean(), level[..., 0].mean()]

    count = 1500
    ours = np.array([figures(recolour(np.asarray(small), colour.draw_colour(settings, rng))) for _ in range(count)])
    theirs = np.array([figures(np.asarray(reference(small))) for _ in range(count)])
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / count)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * error + 0.3).all()
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        a, b = (np.quantile(side, quantile, axis=0) for side in (ours, theirs))
        assert (np.abs(a - b) < 0.25 * ours.std(axis=0)).all()


def test_probabilities_and_branches() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    rng = Random(1)
    none = ColourSettings(jitter_probability=0, gray_probability=0, blur_probability=0)
    assert (recolour(pixels, colour.draw_colour(none, rng)) == pixels).all()
    for field, share in (("gray_probability", 0.2), ("solarise_probability", 0.3), ("blur_probability", 0.1)):
        settings = none.model_copy(update={field: share})
        changed = np.mean([(recolour(pixels, colour.draw_colour(settings, rng)) != pixels).any() for _ in range(1500)])
        assert abs(changed - share) < 0.05, field
    assert ViewSettings().target_colour.solarise_probability == 0.2
    assert ViewSettings().online_colour.blur_probability == 1.0


def test_crops_have_the_reference_s_distribution() -> None:
    rng = Random(0)
    torch.manual_seed(0)
    image = torch.zeros(3, 90, 130)
    reference = v2.RandomResizedCrop(8, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    theirs = []
    for _ in range(3000):
        p = reference.make_params([image])
        theirs.append((p["top"], p["left"], p["height"], p["width"]))
    drawn = [
        sample_crop(90, 130, rng=rng, share=(0.08, 1.0), aspect=(3 / 4, 4 / 3), flip_probability=0.5)
        for _ in range(3000)
    ]
    ours, other = np.array([crop[:4] for crop in drawn]), np.array(theirs, float)
    error = np.sqrt((ours.var(axis=0) + other.var(axis=0)) / 3000)
    assert (np.abs(ours.mean(axis=0) - other.mean(axis=0)) < 4.5 * error).all()
    assert (np.abs(ours.std(axis=0) / other.std(axis=0) - 1) < 0.06).all()
    assert abs(np.mean([crop.flipped for crop in drawn]) - 0.5) < 0.04
    assert ((ours[:, 0] + ours[:, 2] <= 90) & (ours[:, 1] + ours[:, 3] <= 130) & (ours >= 0).all(axis=1)).all()


@pytest.mark.parametrize(("size", "expected"), [((10, 100), (10, 13)), ((100, 10), (13, 10)), ((12, 10), (12, 10))])
def test_the_fallback_is_the_largest_centred_crop(size: tuple[int, int], expected: tuple[int, int]) -> None:
    crop = sample_crop(*size, rng=Random(0), share=(5.0, 6.0), aspect=(3 / 4, 4 / 3), flip_probability=0.0)
    assert (crop.height, crop.width) == expected
    assert abs(2 * crop.top + crop.height - size[0]) <= 1 and abs(2 * crop.left + crop.width - size[1]) <= 1


def test_cutting_is_flip_then_crop_then_resize(photo: Image.Image) -> None:
    crop = Crop(11.0, 20.0, 40.0, 50.0, True)
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left = photo.width - 20 - 50
    expected = tv.resized_crop(mirrored, 11, left, 40, 50, [16, 24], interpolation=v2.InterpolationMode.BICUBIC)
    pixels = cut(Reduced(np.asarray(photo)), crop, size=(16, 24))
    ours = planes(pixels, flipped=True).transpose(1, 2, 0)
    assert difference(ours, expected).max() <= 2 and difference(ours, expected).mean() < 0.2


def test_a_crop_of_a_reduced_image_falls_between_its_pixels(photo: Image.Image) -> None:
    """The same place, whether it is cut at full resolution or at half of it."""
    smooth = np.asarray(photo.resize((192, 144), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3)))
    half = np.asarray(Image.fromarray(smooth).resize((96, 72), Image.Resampling.BOX))
    crop = Crop(21.0, 33.0, 77.0, 101.0, False)
    near = Crop(23.0, 35.0, 77.0, 101.0, False)
    full, reduced, shifted = (
        cut(image, place, size=(24, 32)).astype(int)
        for image, place in ((Reduced(smooth), crop), (Reduced(half, 2), crop), (Reduced(half, 2), near))
    )
    assert np.abs(full - reduced).mean() < 0.5 < np.abs(full - shifted).mean()


def test_what_is_decoded_suffices_for_both_crops() -> None:
    crops = Crop(0.0, 0.0, 100.0, 400.0, False), Crop(0.0, 0.0, 300.0, 60.0, False)
    assert least_scale(crops, size=(32, 30)) == 0.5
    assert least_scale(crops, size=(224, 224)) == 1.0


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_number_of_channels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, channels), np.uint8)
    settings = ViewSettings(mean=(0.5,) * channels, std=(0.2,) * channels)
    views = PairViews(settings, (16, 24), PatchGrid(4, 6))
    for index in range(20):
        pair = views(Picture("array", pixels), sample_rng(seed=0, epoch=0, index=index))
        assert pair.online.pixels.shape == pair.target.pixels.shape == (channels, 16, 24)


def test_a_pair_is_a_function_of_image_and_generator(photo: Image.Image) -> None:
    views = PairViews(ViewSettings(mask=MaskSettings(count=10)), (16, 24), PatchGrid(4, 6))
    first, again, other = (
        views(Picture("photo", np.asarray(photo)), sample_rng(seed=0, epoch=0, index=index)) for index in (1, 1, 2)
    )
    assert (first.online.pixels == again.online.pixels).all() and first.online.crop == again.online.crop
    assert (first.online.pixels != other.online.pixels).any()
    assert first.online.pixels.shape == first.target.pixels.shape == (3, 16, 24)
    assert int(first.online.masked.sum()) == 10 and not first.target.masked.any()
    assert first.online.crop != first.target.crop


def test_visible_indices_are_those_not_hidden() -> None:
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert visible_indices(hidden, visible=2).tolist() == [[1, 3], [0, 1]]


def test_normalise() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    out = normalise(pixels, (0.5, 0.4, 0.3), (0.5, 0.2, 0.1))
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([-1.0, -2.0, -3.0]))
    torch.testing.assert_close(out[0, :, 0, 1], torch.tensor([1.0, 3.0, 7.0]))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_batch_coloured_on_the_device_is_what_the_workers_make(channels: int) -> None:
    """The same draws in the same order: of a whole branch, levels differ by rounding, and by OpenCV's 256 hues."""
    settings = ViewSettings(
        mean=(0.5,) * channels, std=(0.5,) * channels, target_colour=ColourSettings(solarise_probability=0.5)
    )
    later = settings.model_copy(update={"colour_on": "device"})
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (12, 9, 12, channels), np.uint8)
    pictures = [
        Picture("drawn", np.atleast_3d(cv2.resize(one, (100, 80), interpolation=cv2.INTER_CUBIC))) for one in rough
    ]
    made = {
        name: [PairViews(one, (64, 64), PatchGrid(4, 4))(picture, Random(i)) for i, picture in enumerate(pictures)]
        for name, one in (("workers", settings), ("device", later))
    }
    for side in ("online", "target"):
        done, left = (default_collate([getattr(pair, side) for pair in made[name]]) for name in ("workers", "device"))
        assert torch.equal(done.colour, left.colour) and torch.equal(done.masked, left.masked)
        assert done.pending.numel() == 0 and left.pending.shape == (12, 4)
        assert all(torch.equal(one, other) for one, other in zip(done.crop, left.crop, strict=True))
        branch = getattr(later, f"{side}_colour")
        ours = coloured(left, branch)
        apart = (ours - done.pixels.float()).abs().mean(dim=(1, 2, 3))
        assert apart.max() < 1.5 and apart.median() < 0.8, apart
        alone = coloured(left._replace(**{n: getattr(left, n)[3:4] for n in ("pixels", "colour", "pending")}), branch)
        torch.testing.assert_close(alone[0], ours[3], atol=1.0, rtol=0)
        assert ((alone[0] - ours[3]).abs() > 1e-3).float().mean() < 1e-3
        shown = coloured_alone(getattr(made["device"][3], side))  # as reports show it
        assert shown.dtype == torch.uint8 and (shown.float() - ours[3]).abs().mean() < 0.01
        assert coloured_alone(getattr(made["workers"][3], side)) is getattr(made["workers"][3], side).pixels
        assert normalised(left, later, branch).shape == normalised(done, settings, branch).shape


def test_blur_kernels_of_a_batch_are_each_image_s_own() -> None:
    sigmas = [0.1, 0.7, 1.3, 2.0]
    kernels = blur_kernels(torch.tensor([0.0, *sigmas]), 2.0)
    assert torch.equal(kernels[0], torch.eye(kernels.shape[1])[kernels.shape[1] // 2])
    for kernel, sigma in zip(kernels[1:], sigmas, strict=True):
        own = colour._blur_kernel(sigma)
        spare = (len(kernel) - len(own)) // 2
        np.testing.assert_allclose(kernel[spare : len(kernel) - spare], own, atol=1e-6)
        assert float(kernel[:spare].abs().sum()) == 0
