"""Features: one pass of a frozen encoder over a source, in its order, without padding or duplicates.

    features = extract(encoder, source, look)     # .tokens["mean"]: [N, D], .kept
    several = extract_all({"encoder": encoder, "pixels": None}, source, look)

An image is resized so that its shorter side is the model's (bicubic, antialiased) and its centre is cut out.
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from otherview.data.loader import settle_worker
from otherview.data.picture import Look, open_picture
from otherview.data.source import Source
from otherview.errors import BrokenImage, WrongRequest
from otherview.geometry import Crop
from otherview.learner import Image
from otherview.losses.reconstruction import patchify
from otherview.nn.encoder import Encoder
from otherview.views.crop import planes, take
from otherview.views.view import normalise

Advance = Callable[[int], None]
"""Called with the number of images done."""
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


def digest_of(data: bytes) -> str:
    """What tells the content of an image file."""
    return blake2b(data, digest_size=8).hexdigest()


@dataclass(frozen=True)
class _Centres(Dataset[tuple[np.ndarray, str, str]]):
    """The pixels of an image, a digest of its bytes and an empty word, or nothing and why it cannot be read."""

    source: Source
    indices: np.ndarray
    look: Look
    alter: Alter | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[np.ndarray, str, str]:
        index = int(self.indices[place])
        try:
            data = self.source.read(index)
            pixels = centre(open_picture(data, self.source.name(index), self.look.decoding), self.look)
            if self.alter is not None:
                pixels = self.alter(pixels, index)
            return pixels, digest_of(data), ""
        except BrokenImage as error:
            return np.zeros((self.look.decoding.channels, *self.look.size), np.uint8), "", str(error)


class Features(NamedTuple):
    """Features by kind of token, float32 on the CPU, and which of the images asked for they belong to."""

    tokens: dict[str, Float[Tensor, "N *L D"]]
    kept: Int[Tensor, " N"]
    """Places in the list of indices; images that cannot be read are named and left out."""
    contents: frozenset[str] = frozenset()
    """Digests of the bytes of all that could be read."""


_named: set[str] = set()


def name_once(fault: str) -> None:
    """A broken image is named on standard error, but not at every look again."""
    if fault not in _named:
        _named.add(fault)
        print(f"broken image left out: {fault}", file=sys.stderr)


def first_of(source: Source, count: int | None) -> np.ndarray:
    """Indices of `count` images spread evenly over the source; all of them by default."""
    if count is None or count >= len(source):
        return np.arange(len(source))
    return np.linspace(0, len(source) - 1, count).round().astype(np.int64)


def extract(encoder: Encoder, source: Source, look: Look, *, indices: np.ndarray | None = None) -> Features:
    """cls and mean token of every readable image."""
    return extract_all({"": encoder}, source, look, indices=indices)[""]


@torch.no_grad()
def extract_all(
    modules: Mapping[str, Encoder | None],
    source: Source,
    look: Look,
    *,
    indices: np.ndarray | None = None,
    workers: int = 1,
    advance: Advance = lambda _: None,
    patch_size: int | None = None,
    normed: bool = True,
    apart_from: Collection[str] = (),
    alter: Alter | None = None,
) -> dict[str, Features]:
    """Features by module, every image read once; for None the normalised pixels themselves.

    With `patch_size`, the tokens of all patches instead, [N, L, D], or the patches' own pixels; without `normed`, tokens
    as the last block leaves them. Raises WrongRequest at the first image whose bytes have a digest in `apart_from`.
    """
    indices = np.arange(len(source)) if indices is None else indices
    loader = DataLoader(
        _Centres(source, indices, look, alter),
        batch_size=250,
        num_workers=workers,
        worker_init_fn=settle_worker,
    )
    found: dict[str, dict[str, list[Tensor]]] = {name: {} for name in modules}
    kept: list[Tensor] = []
    contents: set[str] = set()
    done = 0
    for pixels, digests, faults in loader:
        _refuse_shared(digests, apart_from, lambda place, done=done: source.name(int(indices[done + place])))
        contents.update(filter(None, digests))
        for fault in filter(None, faults):
            name_once(fault)
        whole = torch.tensor([not fault for fault in faults])
        kept.append(done + whole.nonzero()[:, 0])
        if not whole.any():
            done += len(faults)
            advance(len(faults))
            continue
        for name, module in modules.items():
            for kind, value in _tokens(module, pixels[whole], look, patch_size, normed).items():
                found[name].setdefault(kind, []).append(value.float().cpu())
        done += len(faults)
        advance(len(faults))
    places = torch.cat(kept)
    return {
        name: Features({kind: torch.cat(values) for kind, values in tokens.items()}, places, frozenset(contents))
        for name, tokens in found.items()
    }


def _refuse_shared(digests: Sequence[str], others: Collection[str], name_of: Callable[[int], str]) -> None:
    for place, digest in enumerate(digests):
        if digest and digest in others:
            raise WrongRequest(
                f"{name_of(place)} is among the training and the test images: a score would flatter; take it out of one "
                "side, or give --allow-shared"
            )


@dataclass(frozen=True)
class _Digests(Dataset[str]):
    """The digest of an image's bytes, or nothing."""

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> str:
        try:
            return digest_of(self.source.read(int(self.indices[place])))
        except BrokenImage:
            return ""


def refuse_shared(
    train: tuple[Source, np.ndarray], test: tuple[Source, np.ndarray], *, workers: int, advance: Advance
) -> None:
    """Read every image once, undecoded; raise WrongRequest at the first training image that is a test image too."""
    seen: set[str] = set()
    for source, indices in (test, train):
        loader = DataLoader(
            _Digests(source, indices), batch_size=250, num_workers=workers, worker_init_fn=settle_worker
        )
        done, mine = 0, set[str]()
        for digests in loader:
            _refuse_shared(digests, seen, lambda place, done=done: source.name(int(indices[done + place])))  # noqa: B023
            mine.update(filter(None, digests))
            done += len(digests)
            advance(len(digests))
        seen = mine


def _tokens(
    encoder: Encoder | None, pixels: Tensor, look: Look, patch_size: int | None, normed: bool
) -> dict[str, Tensor]:
    if encoder is None:
        images = normalise(pixels, look.mean, look.std)
        return {"patches": patchify(images, patch_size)} if patch_size else {"pixels": images.flatten(1)}
    encoder.eval()
    tokens = encoder(normalise(pixels.to(next(encoder.parameters()).device), look.mean, look.std), normed=normed)
    return {"patches": tokens.patches} if patch_size else {"mean": tokens.mean, "cls": tokens.cls}
