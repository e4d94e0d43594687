"""Patch retrieval: does a patch of one view find the same place in another view? A dense measure without labels.

Two crops of an image, nothing else changed; every patch of the target view whose centre the online view shows too
takes the most similar patch of the online view (cosine). It has found its place where that patch's centre is less than a
patch's side away along both sides, which chance does for less than 4 patches in L. The mean token of each position is
taken off first: what the tokens of all images share there is the position in the view, not what the view shows.

Axes: I images, L patches, D width.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.data.first_images import settled
from otherview.data.image import Preprocessing
from otherview.data.loader import Sample, SampleMaker
from otherview.data.source import Source, first_of, name_once
from otherview.data.spec import open_aloud
from otherview.data.workers import Batches
from otherview.errors import WrongRequest
from otherview.evaluation.backbone import Backbone, load_backbone
from otherview.evaluation.features import FeatureSpec, tokens_of
from otherview.evaluation.result import finish
from otherview.evaluation.settings import RetrievalSettings
from otherview.evaluation.split import images_used
from otherview.geometry import Crop, PatchGrid, inside, place
from otherview.launch import launched_rank
from otherview.scores import PerImage, Score, Scores
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on
from otherview.views.settings import PLAIN, MaskSettings, ViewSettings
from otherview.views.transforms import PairViews
from otherview.views.view import View, ViewPair
from otherview.weights.names import check_weights

LEAST_SHARE = 0.3
"""A crop shows this share of the image or more: two of them nearly always share something."""


def pairs(
    source: Source,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    grid: PatchGrid,
    *,
    seed: int,
    workers: int,
    named: bool = True,
) -> Iterator[ViewPair]:
    """Batches of two views of each image, crops and mirroring alone; images that cannot be read are left out.

    They are `named`, unless somebody else does that.
    """
    whole = MaskSettings(kind="none")
    settings = ViewSettings(crop_share=(LEAST_SHARE, 1), online_colour=PLAIN, target_colour=PLAIN, mask=whole)
    maker = SampleMaker(source, PairViews(settings, preprocessing.size, grid), seed, preprocessing)
    keys = [[(0, int(index)) for index in part] for part in np.array_split(indices, -(-len(indices) // 100))]
    loader: Batches[Sample] = Batches(maker, workers=workers, batch_sampler=keys)
    for sample in loader:
        for index in sample.replaced() if named else ():
            name_once(source.name(index))
        kept = torch.as_tensor(sample.broken) < 0
        yield ViewPair(*(_of(view, kept) for view in sample.views))


def _of(view: View, kept: Bool[Tensor, " B"]) -> View:
    return view._replace(pixels=view.pixels[kept], crop=view.crop.each(lambda side: side[kept]))


@torch.no_grad()
def patches_of_pairs(
    modules: Mapping[str, nn.Module | None],
    batches: Iterable[ViewPair],
    preprocessing: Preprocessing,
    *,
    spec: FeatureSpec,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, tuple[Float[Tensor, "I L D"], Float[Tensor, "I L D"]]], tuple[Crop, Crop]]:
    """Patch tokens of the online and the target views by module, and where the views lie; of None the normalised pixels."""
    tokens: dict[str, list[list[Tensor]]] = {name: [] for name in modules}
    crops: list[tuple[Crop, Crop]] = []
    for batch in batches:
        crops.append((batch.online.crop, batch.target.crop))
        for name, module in modules.items():
            sides = [tokens_of(module, view.pixels, preprocessing, spec)["patches"] for view in batch]
            tokens[name].append([side.float().cpu() for side in sides])
        advance(len(batch.online.pixels))
    joined = joined_crops([online for online, _ in crops]), joined_crops([target for _, target in crops])
    whole = {name: [torch.cat(side) for side in zip(*both, strict=True)] for name, both in tokens.items()}
    return {name: (online, target) for name, (online, target) in whole.items()}, joined


def retrieve(
    modules: Mapping[str, nn.Module | None],
    batches: Iterable[ViewPair],
    preprocessing: Preprocessing,
    *,
    grid: PatchGrid,
    spec: FeatureSpec,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, tuple[Bool[Tensor, "I L"], Bool[Tensor, "I L"]]]:
    """`found_places` by module; None are the patches' own normalised pixels."""
    tokens, crops = patches_of_pairs(modules, batches, preprocessing, spec=spec, advance=advance)
    return {
        name: found_places(without_position(online), without_position(target), crops, grid)
        for name, (online, target) in tokens.items()
    }


def joined_crops(crops: list[Crop]) -> Crop:
    """The crops of several batches as those of one."""
    return Crop(*(torch.cat(sides) if isinstance(sides[0], Tensor) else sides[0] for sides in zip(*crops, strict=True)))  # pyright: ignore


def without_position(tokens: Float[Tensor, "I L D"]) -> Float[Tensor, "I L D"]:
    """Tokens less what all images have at a position."""
    return tokens - tokens.mean(dim=0)


def most_similar(online: Float[Tensor, "I L D"], target: Float[Tensor, "I L D"]) -> Int[Tensor, "I L"]:
    """For every patch of the target view, which patch of the online view is most like it (cosine)."""
    pairs_of = zip(F.normalize(online, dim=2), F.normalize(target, dim=2), strict=True)
    return torch.stack([(asked @ known.T).argmax(dim=1) for known, asked in pairs_of])  # one by one: L × L numbers each


def found_places(
    online: Float[Tensor, "I L D"], target: Float[Tensor, "I L D"], crops: tuple[Crop, Crop], grid: PatchGrid
) -> tuple[Bool[Tensor, "I L"], Bool[Tensor, "I L"]]:
    """For every patch of the target view: whether it found its place in the online view, and whether that shows it at all."""
    predicted = most_similar(online, target)
    placed = place(crops[1], within=crops[0], grid=grid)
    rows, columns = (part.flatten(1) for part in placed.everywhere)
    near = ((predicted // grid.columns - rows).abs() < 1) & ((predicted % grid.columns - columns).abs() < 1)
    shown = inside(placed, grid)
    return near & shown, shown


def shares_found(found: Bool[Tensor, "I L"], shown: Bool[Tensor, "I L"]) -> Float[Tensor, " S"]:
    """The share of patches that found their place, of every image with a patch that both views show."""
    counted = shown.any(dim=1)
    return found[counted].sum(dim=1).double() / shown[counted].sum(dim=1)


def share_found(found: Bool[Tensor, "I L"], shown: Bool[Tensor, "I L"]) -> tuple[float, float, int]:
    """The mean of those shares over images, its standard error, and how many images have one."""
    shares = shares_found(found, shown)
    return float(shares.mean()), float(shares.std() / len(shares) ** 0.5), len(shares)


@takes(RetrievalSettings)
def retrieval(settings: RetrievalSettings) -> Scores:
    """The share of patches that find their place, next to the untrained encoder's and raw patches'."""
    began = time.monotonic()
    if settings.test_images < 2:
        raise WrongRequest(f"--test-images {settings.test_images} is too few: give 2 or more")
    check_weights(settings.weights)
    device = compute_on(settings)
    backbone = load_backbone(settings.weights).to(device)
    backbone.check_block(settings.block)
    backbone.check_patches()
    about = {"test": settings.test, "views_seed": settings.seed}
    return finish(settings, _judge(backbone, settings), known=backbone.about, about=about, began=began)


def _judge(backbone: Backbone, settings: RetrievalSettings) -> dict[str, list[Score]]:
    """The score of every module on the same views."""
    source, grid = open_aloud(settings.test), backbone.grid
    preprocessing = settled(source, backbone.preprocessing, flag="--test", fixed=True)
    indices = first_of(source, images_used(settings.test_images))
    with RunProgress(total=len(indices), title="views", speak=launched_rank() == 0) as progress:
        found = retrieve(
            {**backbone.modules, "pixels": None},
            pairs(source, indices, preprocessing, grid, seed=settings.seed, workers=settings.workers), preprocessing,
            grid=grid, spec=FeatureSpec(backbone.patch_size, settings.block), advance=progress.advance,
        )  # fmt: skip
    scores = {}
    for name, (places, shown) in found.items():
        if shown.any(dim=1).sum() < 2:
            raise WrongRequest(
                f"{settings.test} has fewer than 2 images that can be read and share something: give more"
            )
        share, spread, n = share_found(places, shown)
        answers = PerImage(shares_found(places, shown).numpy())
        scores[name] = [Score(f"retrieval_{name}", share, "share of patches", n, spread, None, answers)]
    return scores
