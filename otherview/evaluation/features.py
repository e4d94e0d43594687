"""Features: one pass of frozen encoders over a source, in its order, without padding or duplicates, shared out over ranks.

    features = extract(encoder, source, look)     # .tokens["mean"]: [N, D], .kept
    several = extract_all({"encoder": encoder, "pixels": None}, source, look)

An image is resized so that its shorter side is the model's (bicubic, antialiased) and its centre is cut out.

Axes: N images, L patches, D width.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from otherview.data.loader import settle_worker
from otherview.data.picture import Look, open_picture
from otherview.data.source import Source
from otherview.distributed import rank, ranks, rows_of_all
from otherview.errors import BrokenImage
from otherview.evaluation.content import Advance
from otherview.geometry import Crop
from otherview.learner import Image
from otherview.losses.reconstruction import patchify
from otherview.views.crop import planes, take
from otherview.views.view import normalise

Alter = Callable[[np.ndarray, int], np.ndarray]
"""What is done to the pixels of an image, uint8 [C, H, W], given its index; runs in the worker."""


def centre(image: Image, look: Look) -> np.ndarray:
    """The centre of an image as an encoder wants it: uint8 [C, H, W]."""
    if look.shown < 1 or look.resize != "bicubic":
        return _resized_then_cut(image.decode(), look)
    size = look.size
    scale = max(size[0] / image.height, size[1] / image.width)
    height, width = max(1, round(size[0] / scale)), max(1, round(size[1] / scale))
    crop = Crop(
        float((image.height - height) // 2), float((image.width - width) // 2), float(height), float(width), False
    )
    return planes(take(image, [crop], size=size)[0], flipped=False)


def _resized_then_cut(pixels: np.ndarray, look: Look) -> np.ndarray:
    """The published order: the shorter side to size / shown, antialiased, then the centre (specification 2)."""
    height, width = pixels.shape[:2]
    scale = max(look.size[0] / height, look.size[1] / width) / look.shown
    whole = max(look.size[0], int(height * scale + 1e-6)), max(look.size[1], int(width * scale + 1e-6))
    levels = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
    resized = F.interpolate(levels, whole, mode=look.resize, antialias=True)[0]
    top, left = (round((have - want) / 2) for have, want in zip(whole, look.size, strict=True))
    return resized[:, top : top + look.size[0], left : left + look.size[1]].contiguous().numpy()


@dataclass(frozen=True)
class _Centres(Dataset[tuple[np.ndarray, str]]):
    """The pixels of an image and an empty word, or nothing and why it cannot be read."""

    source: Source
    indices: np.ndarray
    look: Look
    alter: Alter | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[np.ndarray, str]:
        index = int(self.indices[place])
        try:
            image = open_picture(self.source.read(index), self.source.name(index), self.look.decoding)
            pixels = centre(image, self.look)
            return (pixels if self.alter is None else self.alter(pixels, index)), ""
        except BrokenImage as error:
            return np.zeros((self.look.decoding.channels, *self.look.size), np.uint8), str(error)


KINDS = "mean", "cls", "pixels", "patches"
"""Of tokens, in the order in which they are reported."""


class Asked(NamedTuple):
    """Which tokens are features."""

    patch_size: int | None = None
    """Those of all patches, for an encoder of this patch size; else the mean and the cls token."""
    block: int | None = None
    """After this block, counted from 1; else the last, after the final norm where there is one."""


WHOLE = Asked()


class Features(NamedTuple):
    """Features by kind of token, float32 on the CPU, and which of the images asked for they belong to."""

    tokens: dict[str, Float[Tensor, "N *L D"]]
    kept: Int[Tensor, " N"]
    """Places in the list of indices; images that cannot be read are named and left out."""


_named: set[str] = set()


def name_once(fault: str, said: str = "broken image left out") -> None:
    """A broken image is named on standard error, but not at every look again."""
    if fault not in _named:
        _named.add(fault)
        print(f"{said}: {fault}", file=sys.stderr)


def first_of(source: Source, count: int | None) -> np.ndarray:
    """Indices of `count` images spread evenly over the source; all of them by default."""
    if count is None or count >= len(source):
        return np.arange(len(source))
    return np.linspace(0, len(source) - 1, count).round().astype(np.int64)


def extract(encoder: nn.Module, source: Source, look: Look, *, indices: np.ndarray | None = None) -> Features:
    """cls and mean token of every readable image."""
    return extract_all({"": encoder}, source, look, indices=indices)[""]


@torch.no_grad()
def extract_all(
    modules: Mapping[str, nn.Module | None],
    source: Source,
    look: Look,
    *,
    indices: np.ndarray | None = None,
    workers: int = 1,
    advance: Advance = lambda _: None,
    asked: Asked = WHOLE,
    alter: Alter | None = None,
    kept_in: Mapping[str, Path] | None = None,
) -> dict[str, Features]:
    """Features by module, every image read once; for None the normalised pixels themselves, whole or patch by patch.

    A module maps normalised images to Tokens. Rows go to memory, or to files in the folder that `kept_in` has for a module.
    """
    indices = np.arange(len(source)) if indices is None else indices
    shares = np.array_split(np.arange(len(indices)), ranks())
    mine = shares[rank()]
    loader = DataLoader(
        _Centres(source, indices[mine], look, alter), batch_size=250, num_workers=workers, worker_init_fn=settle_worker
    )
    rows = {
        name: _Rows(len(mine), blank_of(module, look, asked), (kept_in or {}).get(name))
        for name, module in modules.items()
    }
    places, kept = torch.from_numpy(mine).split(250), [torch.zeros(0, dtype=torch.int64)]
    for here, (pixels, faults) in zip(places, loader, strict=False):
        for fault in filter(None, faults):
            name_once(fault)
        whole = torch.tensor([not fault for fault in faults])
        kept.append(here[whole])
        if whole.any():
            for name, module in modules.items():
                rows[name].add(tokens_of(module, pixels[whole], look, asked))
        advance(len(faults) * ranks())
    everyone = rows_of_all(torch.cat(kept))
    return {
        name: Features({kind: rows_of_all(values) for kind, values in found.tensors.items()}, everyone)
        for name, found in rows.items()
    }


class _Rows:
    """Tokens by kind, row by row, in memory or in files; `blank` is a row of each."""

    def __init__(self, count: int, blank: Mapping[str, Tensor], folder: Path | None) -> None:
        self.filled = 0
        self._arrays: dict[str, np.ndarray] = {}
        for kind, row in blank.items():
            shape = (count, *row.shape[1:])
            self._arrays[kind] = (
                np.empty(shape, np.float32)
                if folder is None
                else np.lib.format.open_memmap(folder / f"{kind}.npy", "w+", np.float32, shape)
            )

    def add(self, tokens: Mapping[str, Tensor]) -> None:
        end = self.filled + len(next(iter(tokens.values())))
        for kind, values in tokens.items():
            self._arrays[kind][self.filled : end] = values.float().cpu().numpy()
        self.filled = end

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {kind: torch.from_numpy(array[: self.filled]) for kind, array in self._arrays.items()}


def blank_of(module: nn.Module | None, look: Look, asked: Asked) -> dict[str, Tensor]:
    """The features of a black image: which kinds there are, and their shapes."""
    return tokens_of(module, torch.zeros(1, look.decoding.channels, *look.size, dtype=torch.uint8), look, asked)


@torch.no_grad()
def tokens_of(
    module: nn.Module | None, pixels: UInt8[Tensor, "N C H W"], look: Look, asked: Asked
) -> dict[str, Float[Tensor, "N *L D"]]:
    """What a module makes of images, by kind of token."""
    if module is None:
        images = normalise(pixels, look.mean, look.std)
        return {"patches": patchify(images, asked.patch_size)} if asked.patch_size else {"pixels": images.flatten(1)}
    device = next((value.device for value in module.parameters()), pixels.device)
    tokens = module.eval()(normalise(pixels.to(device), look.mean, look.std), block=asked.block)
    if asked.patch_size:
        return {"patches": tokens.patches}
    return {"mean": tokens.mean, **({"cls": tokens.cls} if tokens.prefix else {})}
