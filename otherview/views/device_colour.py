"""The colour branches of a whole batch on the device: what the workers drew and left to do.

    images = normalised(view, settings, settings.online_colour)     # uint8 or uint16 in, float32 [B, C, H, W] out

Where a GPU has few CPU cores (`views.colour_on device`), workers only decode, cut and draw. Operations, order, rounding and
draws are those of views/colour.py; of hue, levels differ by one or two, since OpenCV keeps it in 256 steps.
Source: specification 1.1.
Axes: B images, C channels, H and W pixels, K taps of the blur.
"""

import math

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from otherview.data.image import PER_LEVEL
from otherview.views.colour import BOXES, JITTER
from otherview.views.settings import ColourSettings, ViewSettings
from otherview.views.view import View, normalise

_LUMA = (0.299, 0.587, 0.114)
"""Of ITU-R 601."""
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(len(JITTER))


def normalised(view: View, settings: ViewSettings, branch: ColourSettings) -> Float[Tensor, "B C H W"]:
    """A batch's view as the encoder wants it, the colours of its branch done."""
    return normalise(coloured(view, branch), settings.mean, settings.std)


def coloured(view: View, branch: ColourSettings) -> Shaped[Tensor, "B C H W"]:
    """A batch's pixels as they are, uint8 or uint16, or float32 in 0 … 255 where its colours are still to be done.

    What the branch never draws is not computed; the branch is known beforehand, so the device is never asked.
    """
    if view.pending.numel() == 0:
        return view.pixels
    deep = view.pixels.dtype == torch.uint16
    with torch.autocast(view.pixels.device.type, enabled=False):
        levels = view.pixels.float() / PER_LEVEL if deep else view.pixels.float()
        return _recoloured(levels, view.colour, view.pending, branch, deep=deep)


def coloured_alone(view: View) -> UInt8[Tensor, "C H W"]:
    """One view's pixels in eight bits, its colours done, whatever its branch may draw."""
    pixels = view.pixels
    if view.pending.numel():
        *_, sigma, _solarise = view.colour.tolist()
        branch = ColourSettings(gray_probability=1, solarise_probability=1, blur_sigma=(0.1, max(0.1, sigma)))
        batch = view._replace(**{name: getattr(view, name)[None] for name in ("pixels", "colour", "pending")})
        pixels = coloured(batch, branch)[0].round()
    return (
        (pixels.float() / PER_LEVEL).round().to(torch.uint8) if pixels.dtype == torch.uint16 else pixels.to(torch.uint8)
    )


def _recoloured(
    pixels: Float[Tensor, "B C H W"],
    draws: Float[Tensor, "B 7"],
    order: UInt8[Tensor, "B 4"],
    branch: ColourSettings,
    *,
    deep: bool,
) -> Float[Tensor, "B C H W"]:
    """`draws` are ColourDraw.conditioning, `order` holds one more than the place of an operation in JITTER, 0 for none.

    Levels of eight bits are made whole after every operation; `deep` ones keep their fractions.
    """
    colourful = pixels.shape[1] == 3
    brightness, contrast, saturation, hue, gray, sigma, solarise = (draw[:, None, None, None] for draw in draws.T)
    factors, whole = (1 + brightness, 1 + contrast, 1 + saturation), _as_it_is if deep else torch.round
    for slot in order.T if branch.jitter_probability else ():
        pixels = _jittered(pixels, slot[:, None, None, None].int() - 1, factors, hue, deep=deep)
    if colourful and branch.gray_probability:
        pixels = torch.where(gray > 0, whole(_luma(pixels)), pixels)
    if branch.blur_probability:
        pixels = whole(_blurred(pixels, sigma.flatten(), branch.blur_sigma[1]))
    return (
        torch.where(solarise > 0, torch.minimum(pixels, 255 - pixels), pixels)
        if branch.solarise_probability
        else pixels
    )


def _as_it_is(levels: Tensor) -> Tensor:
    return levels


def _jittered(
    pixels: Tensor, slot: Tensor, factors: tuple[Tensor, Tensor, Tensor], hue: Tensor, *, deep: bool
) -> Tensor:
    """Each image under the operation that stands in its slot: three are blends with black, its mean, or its gray."""
    colourful = pixels.shape[1] == 3
    luma = _luma(pixels) if colourful else pixels.mean(dim=1, keepdim=True)
    factor, other = torch.ones_like(hue), torch.zeros_like(luma)
    for place in (_BRIGHTNESS, _CONTRAST, *([_SATURATION] if colourful else [])):
        factor = torch.where(slot == place, factors[place], factor)
    mean = luma.mean(dim=(2, 3), keepdim=True)
    mean = mean if deep else (mean + 0.5).floor()
    other = torch.where(slot == _CONTRAST, mean, torch.where(slot == _SATURATION, luma, other))
    blended = pixels * factor + other * (1 - factor)
    blended = blended.clamp(0, 255) if deep else _cut_off(blended)
    return torch.where(slot == _HUE, _turned(blended, hue, deep=deep), blended) if colourful else blended


def _cut_off(levels: Tensor) -> Tensor:
    """Whole levels in 0 … 255, the fraction cut off as Pillow's blends do it."""
    return (levels + 1e-3).floor().clamp(0, 255)


def _luma(pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    red, green, blue = pixels.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _turned(pixels: Float[Tensor, "B 3 H W"], hue: Float[Tensor, "B 1 1 1"], *, deep: bool) -> Float[Tensor, "B 3 H W"]:
    """The hue of HSV turned by that share of the circle; with eight bits in whole 256ths, to whole levels."""
    red, green, blue = pixels.split(1, dim=1)
    value = pixels.amax(dim=1, keepdim=True)
    chroma = value - pixels.amin(dim=1, keepdim=True)
    least = chroma.clamp(min=1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / least,
        torch.where(value == green, (blue - red) / least + 2, (red - green) / least + 4),
    )
    sector = sector + 6 * (hue if deep else (hue * 255).trunc() / 256)
    reach = (5 - 2 * torch.arange(3, device=pixels.device)[:, None, None] + sector).remainder(6)
    turned = value - chroma * torch.minimum(reach, 4 - reach).clamp(0, 1)
    return turned if deep else turned.round()


def _blurred(pixels: Float[Tensor, "B C H W"], sigma: Float[Tensor, " B"], widest: float) -> Float[Tensor, "B C H W"]:
    """Each image under its own Gaussian; sigma 0 leaves it as it is."""
    count, channels, height, width = pixels.shape
    kernel = blur_kernels(sigma, widest).repeat_interleave(channels, dim=0)
    reach = kernel.shape[1] // 2
    flat = F.pad(pixels, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    return flat.view(count, channels, height, width)


def blur_kernels(sigma: Float[Tensor, " B"], widest: float) -> Float[Tensor, "B K"]:
    """colour._blur_kernel of every sigma up to `widest`, all as long as the longest."""
    most = int((math.sqrt(12 * widest**2 / BOXES + 1) - 1) / 2) + 1
    variance = sigma.square() / BOXES
    reach = _reach(variance)
    size = 2 * reach + 1
    end = size * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1).square()))
    places = torch.arange(-most, most + 1, device=sigma.device).abs()
    box = (places <= reach[:, None]).float() + (places == reach[:, None] + 1) * end[:, None]
    box = box / (size + 2 * end)[:, None]
    kernel = box[None]
    for _ in range(BOXES - 1):  # each image's box over its kernel so far
        kernel = F.conv1d(kernel, box[:, None], padding=2 * most, groups=len(box))
    return kernel[0]


def _reach(variance: Tensor) -> Tensor:
    return (((12 * variance + 1).sqrt() - 1) / 2).floor()
