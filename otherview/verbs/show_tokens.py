"""Pictures of what an encoder makes of images: attention, principal components, nearest neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otherview.errors import WrongRequest
from otherview.verbs.request import Request, check_picture
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from otherview.data.source import Source
    from otherview.weights.pretrained import PretrainedEncoder

BASIS_IMAGES = 100
"""So many images share the basis of principal components."""


@dataclass(kw_only=True)
class ShowTokens(Request):
    """Flags of pictures of tokens."""

    weights: str
    """A run folder, an encoder file, reference:demo (ships with the package), or random:RECIPE, the untrained control."""
    data: str = "shapes:100@64"
    """Images: a data SPEC."""
    out: Path = Path("tokens.png")
    """The picture: *.png or *.svg."""
    first: int = 0
    """Index of the first image shown."""
    count: int = 6
    """How many images are shown."""


@dataclass(kw_only=True)
class ShowAttention(ShowTokens):
    """What the cls token attends to in the last block, head by head."""

    out: Path = Path("attention.png")
    """The picture: *.png or *.svg."""
    count: int = 4
    """How many images are shown."""


@dataclass(kw_only=True)
class ShowComponents(ShowTokens):
    """The first three principal components of patch tokens as red, green and blue: one basis over many images, beside the
    untrained encoder's."""

    out: Path = Path("components.png")
    """The picture: *.png or *.svg."""


@dataclass(kw_only=True)
class ShowMatches(ShowTokens):
    """Patches of one view and what is most like them in another, against where they truly lie; and the share that is right."""

    out: Path = Path("matches.png")
    """The picture: *.png or *.svg."""
    count: int = 3
    """How many images are shown."""
    judged: int = 200
    """How many images the share is taken over."""
    seed: int = 0
    """Of the crops."""


@dataclass(kw_only=True)
class ShowNeighbours(Request):
    """Images beside those that lie nearest to them, by a file of `otherview embed` (cosine of mean or cls tokens)."""

    embedding: Path
    """A file of `otherview embed`."""
    data: str
    """The images that it was made of: the same data SPEC."""
    out: Path = Path("neighbours.png")
    """The picture: *.png or *.svg."""
    first: int = 0
    """Row of the first image that is asked about."""
    count: int = 5
    """How many images are asked about."""
    nearest: int = 6
    """How many neighbours of each are shown."""


def run(request: ShowTokens | ShowNeighbours) -> dict[str, Any]:
    """The verb."""
    check_picture(request.out, flag="--out")
    if request.count < 1 or request.first < 0:
        raise WrongRequest(f"--count {request.count} must be 1 or more and --first {request.first} 0 or more")
    from otherview.data.spec import open_source

    if isinstance(request, ShowTokens):
        check_weights(request.weights)
    source = open_source(request.data)
    if request.first >= len(source):
        raise WrongRequest(f"--first {request.first} is not in {request.data}: it has images 0 … {len(source) - 1}")
    more: dict[str, Any] = {}
    match request:
        case ShowNeighbours():
            figure = _neighbours(request, source)
        case ShowMatches():
            figure, more = _matches(request, source)
        case _:
            figure = _tokens(request, source)
    figure.savefig(request.out, dpi=150)
    return {"picture": str(request.out), **more}


def _tokens(request: ShowTokens, source: "Source") -> "Figure":
    from otherview.verbs.weights import load_encoder

    loaded = load_encoder(request.weights)
    if isinstance(request, ShowAttention):
        return attention_figure(loaded, source, request.first, request.count)
    return components_figure(loaded, source, request.first, request.count)


def _matches(request: ShowMatches, source: "Source") -> "tuple[Figure, dict[str, Any]]":
    """The picture, and the share of patches that find their place with its standard error."""
    import torch

    from otherview.evaluation.features import Asked, tokens_of
    from otherview.evaluation.retrieval import (
        found_places,
        joined_crops,
        most_similar,
        pairs,
        share_found,
        without_position,
    )
    from otherview.report.tokens import draw_matches
    from otherview.verbs.weights import load_subject

    subject = load_subject(request.weights)
    indices = np.arange(request.first, min(request.first + max(request.judged, request.count), len(source)))
    if len(indices) < 2:
        raise WrongRequest(
            f"--data {request.data} has {len(indices)} image from --first on: matching needs two or more"
        )
    asked = Asked(subject.patch_size)
    batches = list(pairs(source, indices, subject.look, subject.grid, seed=request.seed, workers=0))
    tokens = [
        [tokens_of(subject.encoder, view.pixels, subject.look, asked)["patches"] for view in batch] for batch in batches
    ]
    seen, other = (without_position(torch.cat(side)) for side in zip(*tokens, strict=True))
    crops = joined_crops([batch.seen.crop for batch in batches]), joined_crops([batch.other.crop for batch in batches])
    right, shown = found_places(seen, other, crops, subject.grid)
    share, spread, n = share_found(right, shown)
    count = min(request.count, len(batches[0].seen.pixels))
    arrays = (part[:count].numpy() for part in (most_similar(seen, other), right, shown))
    return draw_matches(batches[0], *arrays, grid=subject.grid), {"found": share, "spread": spread, "n": n}


def attention_figure(loaded: "PretrainedEncoder", source: "Source", first: int, count: int) -> "Figure":
    """What cls attends to in `count` images from `first` on."""
    from otherview.evaluation.attention import cls_attention
    from otherview.report.tokens import draw_attention
    from otherview.views.view import normalise

    pixels = _pixels(loaded, source, first, count)
    found = cls_attention(loaded.encoder, normalise(pixels, loaded.card.mean, loaded.card.std))
    return draw_attention(_shown(pixels), found.unflatten(2, tuple(loaded.encoder.grid)).numpy())


def components_figure(loaded: "PretrainedEncoder", source: "Source", first: int, count: int) -> "Figure":
    """Principal components of the patches of `count` images from `first` on, and of the untrained encoder's."""
    import torch

    from otherview.evaluation.attention import component_colours
    from otherview.nn.encoder import Encoder
    from otherview.report.tokens import draw_components
    from otherview.views.view import normalise

    pixels = _pixels(loaded, source, first, count)
    basis = torch.cat([pixels, _pixels(loaded, source, 0, BASIS_IMAGES)])
    images = normalise(basis, loaded.card.mean, loaded.card.std)
    encoders = {"trained": loaded.encoder, "untrained": Encoder(loaded.card.encoder, seed=loaded.card.seed).eval()}
    with torch.no_grad():
        colours = {
            name: component_colours(encoder(images).patches)[: len(pixels)].unflatten(1, tuple(encoder.grid)).numpy()
            for name, encoder in encoders.items()
        }
    return draw_components(_shown(pixels), colours)


def _pixels(loaded: "PretrainedEncoder", source: "Source", first: int, count: int) -> Any:
    """uint8 [images, C, H, W] as the encoder wants them."""
    import torch

    from otherview.data.picture import picture_of
    from otherview.evaluation.features import centre
    from otherview.verbs.show import readable

    look = loaded.card.look

    def seen(index: int) -> torch.Tensor:
        return torch.from_numpy(centre(picture_of(source, index, look.decoding), look))

    return torch.stack(readable(source, first, count, seen))


def _shown(pixels: Any) -> list[np.ndarray]:
    return [image.permute(1, 2, 0).numpy() for image in pixels]


def _neighbours(request: ShowNeighbours, source: "Source") -> "Figure":
    import torch

    from otherview.data.picture import picture_of
    from otherview.evaluation.embedding import read_embedding
    from otherview.report.pictures import draw_neighbours

    names, features = read_embedding(request.embedding)
    if features.ndim != 2:
        raise WrongRequest(f"{request.embedding} holds patch tokens: embed mean or cls tokens to compare images")
    place = {source.name(index): index for index in range(len(source))}
    if unknown := next((name for name in names if name not in place), None):
        raise WrongRequest(f"{request.data} has no image {unknown}: give the data that {request.embedding} was made of")
    if request.nearest < 1 or request.nearest >= len(names):
        raise WrongRequest(f"--nearest {request.nearest} must lie between 1 and {len(names) - 1}")
    rows = range(request.first, min(request.first + request.count, len(names)))
    unit = torch.nn.functional.normalize(features, dim=1)
    similar = unit[list(rows)] @ unit.T
    for line, row in enumerate(rows):
        similar[line, row] = -2  # not itself
    found = similar.topk(request.nearest, dim=1).indices.tolist()

    def pixels(row: int) -> np.ndarray:
        return picture_of(source, place[names[row]]).decode()

    return draw_neighbours([pixels(row) for row in rows], [("", [[pixels(other) for other in some] for some in found])])


def show(result: dict[str, Any]) -> Sequence[str]:
    """Where the picture is, and how many patches were found where that was looked for."""
    found = (
        [f"{result['found']:.1%} ± {result['spread']:.1%} of the patches found (n = {result['n']})"]
        if "found" in result
        else []
    )
    return [result["picture"], *found]
