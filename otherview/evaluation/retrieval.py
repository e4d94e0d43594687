"""Patch retrieval: does a patch of one view find the same place in another view? A dense measure without labels.

Two crops of an image, nothing else changed; every patch of the one whose centre the other shows too takes the most similar
patch of the other (cosine). It has found its place where that patch's centre is less than a patch's side away along both
sides, which chance does for less than 4 patches in L. The mean token of each position is taken off first: what the tokens
of all images share there is the position in the view, not what the view shows.

Axes: I images, L patches, D width.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from otherview.data.loader import Sample, SampleMaker, settle_worker
from otherview.data.picture import Look
from otherview.data.source import Source
from otherview.evaluation.features import Asked, name_once, tokens_of
from otherview.geometry import Crop, PatchGrid, inside, place
from otherview.views.pair import PairViews
from otherview.views.settings import PLAIN, MaskSettings, ViewSettings
from otherview.views.view import View, ViewPair

LEAST_SHARE = 0.3
"""A crop shows this share of the image or more: two of them nearly always share something."""


def pairs(
    source: Source, indices: np.ndarray, look: Look, grid: PatchGrid, *, seed: int, workers: int
) -> Iterator[ViewPair]:
    """Batches of two views of each image, crops and mirroring alone; images that cannot be read are named and left out."""
    whole = MaskSettings(kind="none")
    settings = ViewSettings(crop_share=(LEAST_SHARE, 1), seen_colour=PLAIN, other_colour=PLAIN, mask=whole)
    maker = SampleMaker(source, PairViews(settings, look.size, grid), seed, look.decoding)
    keys = [[(0, int(index)) for index in part] for part in np.array_split(indices, -(-len(indices) // 100))]
    loader: DataLoader[Sample] = DataLoader(
        maker, batch_sampler=keys, num_workers=workers, worker_init_fn=settle_worker
    )
    for sample in loader:
        for index in sample.replaced():
            name_once(source.name(index))
        kept = torch.as_tensor(sample.broken) < 0
        yield ViewPair(*(_of(view, kept) for view in sample.views))


def _of(view: View, kept: Bool[Tensor, " B"]) -> View:
    return view._replace(pixels=view.pixels[kept], crop=Crop(*(torch.as_tensor(side)[kept] for side in view.crop)))


@torch.no_grad()
def retrieve(
    modules: Mapping[str, nn.Module | None],
    batches: Iterator[ViewPair],
    look: Look,
    *,
    grid: PatchGrid,
    asked: Asked,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, tuple[Bool[Tensor, "I L"], Bool[Tensor, "I L"]]]:
    """`found_places` by module; None are the patches' own normalised pixels."""
    tokens: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in modules}
    crops: list[tuple[Crop, Crop]] = []
    for batch in batches:
        crops.append((batch.seen.crop, batch.other.crop))
        for name, module in modules.items():
            seen, other = (tokens_of(module, view.pixels, look, asked)["patches"].float().cpu() for view in batch)
            tokens[name].append((seen, other))
        advance(len(batch.seen.pixels))
    joined = joined_crops([seen for seen, _ in crops]), joined_crops([other for _, other in crops])
    return {
        name: found_places(
            without_position(torch.cat([seen for seen, _ in both])),
            without_position(torch.cat([other for _, other in both])),
            joined,
            grid,
        )
        for name, both in tokens.items()
    }


def joined_crops(crops: list[Crop]) -> Crop:
    """The crops of several batches as those of one."""
    return Crop(*(torch.cat(sides) for sides in zip(*crops, strict=True)))  # pyright: ignore[reportArgumentType,reportCallIssue]


def without_position(tokens: Float[Tensor, "I L D"]) -> Float[Tensor, "I L D"]:
    """Tokens less what all images have at a position."""
    return tokens - tokens.mean(dim=0)


def most_similar(seen: Float[Tensor, "I L D"], other: Float[Tensor, "I L D"]) -> Int[Tensor, "I L"]:
    """For every patch of the other view, which patch of the seen view is most like it (cosine)."""
    return (F.normalize(other, dim=2) @ F.normalize(seen, dim=2).transpose(1, 2)).argmax(dim=2)


def found_places(
    seen: Float[Tensor, "I L D"], other: Float[Tensor, "I L D"], crops: tuple[Crop, Crop], grid: PatchGrid
) -> tuple[Bool[Tensor, "I L"], Bool[Tensor, "I L"]]:
    """For every patch of the other view: whether it found its place in the seen view, and whether that shows it at all."""
    predicted = most_similar(seen, other)
    placed = place(crops[1], within=crops[0], grid=grid)
    rows = placed.rows[:, :, None].expand(-1, -1, grid.columns).flatten(1)
    columns = placed.columns[:, None, :].expand(-1, grid.rows, -1).flatten(1)
    near = ((predicted // grid.columns - rows).abs() < 1) & ((predicted % grid.columns - columns).abs() < 1)
    shown = inside(placed, grid)
    return near & shown, shown


def share_found(found: Bool[Tensor, "I L"], shown: Bool[Tensor, "I L"]) -> tuple[float, float, int]:
    """The share of patches that found their place: mean over images, its standard error, images with a shared patch."""
    counted = shown.any(dim=1)
    shares = found[counted].sum(dim=1).double() / shown[counted].sum(dim=1)
    return float(shares.mean()), float(shares.std() / len(shares) ** 0.5), len(shares)
