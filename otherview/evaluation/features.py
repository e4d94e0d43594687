"""Features: one pass of frozen encoders over a source, in its order, without padding or duplicates, shared out over ranks.

    features = extract(encoder, source, preprocessing)     # .tokens["mean"]: [N, D], .kept
    several = extract_all({"encoder": encoder, "pixels": None}, source, preprocessing)

Images are shown whole, or their centre, as data/image.Preprocessing says (whole_images.py).

Axes: N images, L patches, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt
from torch import Tensor, nn
from torch.utils.data import Dataset

from otherview.data.image import Preprocessing
from otherview.data.picture import open_picture
from otherview.data.source import Source, name_once
from otherview.data.workers import Batches
from otherview.distributed import rank, ranks, rows_of_all
from otherview.errors import BrokenImage
from otherview.evaluation.split import Advance
from otherview.evaluation.whole_images import prepared
from otherview.losses.reconstruction import patchify
from otherview.views.view import normalise

Alter = Callable[[np.ndarray, int], np.ndarray]
"""What is done to the pixels of an image, [C, H, W], given its index, to uint8; runs in the worker."""


@dataclass(frozen=True)
class _Prepared(Dataset[tuple[np.ndarray, str]]):
    """The pixels of an image and an empty word, or nothing and why it cannot be read."""

    source: Source
    indices: np.ndarray
    preprocessing: Preprocessing
    alter: Alter | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[np.ndarray, str]:
        index = int(self.indices[place])
        try:
            image = open_picture(self.source.read(index), self.source.name(index), self.preprocessing)
            pixels = prepared(image, self.preprocessing)
            return (pixels if self.alter is None else self.alter(pixels, index)), ""
        except BrokenImage as error:
            deep = self.preprocessing.deep and self.alter is None
            blank = np.zeros((self.preprocessing.channels, *self.preprocessing.size), np.uint16 if deep else np.uint8)
            return blank, str(error)


KINDS = "mean", "cls", "pixels", "patches"
"""Of tokens, in the order in which they are reported."""


class FeatureSpec(NamedTuple):
    """Which tokens are features."""

    patch_size: int | None = None
    """Those of all patches, for an encoder of this patch size; else the mean and the cls token."""
    block: int | None = None
    """After this block, counted from 1; else the last, after the final norm where there is one."""


WHOLE = FeatureSpec()


class Features(NamedTuple):
    """Features by kind of token, float32 on the CPU, and which of the requested images they belong to."""

    tokens: dict[str, Float[Tensor, "N *L D"]]
    kept: Int[Tensor, " N"]
    """Places in the list of indices; images that cannot be read are named and left out."""


def extract(
    encoder: nn.Module, source: Source, preprocessing: Preprocessing, *, indices: np.ndarray | None = None
) -> Features:
    """cls and mean token of every readable image."""
    return extract_all({"": encoder}, source, preprocessing, indices=indices)[""]


@torch.no_grad()
def extract_all(
    modules: Mapping[str, nn.Module | None],
    source: Source,
    preprocessing: Preprocessing,
    *,
    indices: np.ndarray | None = None,
    workers: int = 1,
    advance: Advance = lambda _: None,
    spec: FeatureSpec = WHOLE,
    alter: Alter | None = None,
    kept_in: Mapping[str, Path] | None = None,
    shared: bool = False,
) -> dict[str, Features]:
    """Features by module, every image read once; for None the normalised pixels themselves, whole or patch by patch.

    A module maps normalised images to Tokens. Rows go to memory, or to files in the folder that `kept_in` has for a module.
    With `shared` every rank keeps the rows that it made; else all ranks get all of them.
    """
    indices = np.arange(len(source)) if indices is None else indices
    shares = np.array_split(np.arange(len(indices)), ranks())
    mine = shares[rank()]
    loader = Batches(_Prepared(source, indices[mine], preprocessing, alter), workers=workers, batch_size=250)
    rows = {
        name: _Rows(len(mine), blank_of(module, preprocessing, spec), (kept_in or {}).get(name))
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
                rows[name].add(tokens_of(module, pixels[whole], preprocessing, spec))
        advance(len(faults) * ranks())
    rows_for_me = (lambda values: values) if shared else rows_of_all
    everyone = rows_for_me(torch.cat(kept))
    return {
        name: Features({kind: rows_for_me(values) for kind, values in found.tensors.items()}, everyone)
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


def blank_of(module: nn.Module | None, preprocessing: Preprocessing, spec: FeatureSpec) -> dict[str, Tensor]:
    """The features of a black image: which kinds there are, and their shapes."""
    return tokens_of(
        module, torch.zeros(1, preprocessing.channels, *preprocessing.size, dtype=torch.uint8), preprocessing, spec
    )


@torch.no_grad()
def tokens_of(
    module: nn.Module | None, pixels: UInt[Tensor, "N C H W"], preprocessing: Preprocessing, spec: FeatureSpec
) -> dict[str, Float[Tensor, "N *L D"]]:
    """What a module makes of images, by kind of token."""
    if module is None:
        images = normalise(pixels, preprocessing.mean, preprocessing.std)
        return {"patches": patchify(images, spec.patch_size)} if spec.patch_size else {"pixels": images.flatten(1)}
    device = next((value.device for value in module.parameters()), pixels.device)
    tokens = module.eval()(normalise(pixels.to(device), preprocessing.mean, preprocessing.std), block=spec.block)
    if spec.patch_size:
        return {"patches": tokens.patches}
    return {"mean": tokens.mean, **({"cls": tokens.cls} if tokens.prefix else {})}
