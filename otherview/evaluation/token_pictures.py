"""Pictures of what an encoder makes of images: attention, principal components, matching patches, nearest neighbours.

attention("runs/first", data="photos/", out=Path("attention.png"))

Axes: B images, C channels, X and Y pixels, L patches, D width, H heads.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from otherview.data.first_images import settled
from otherview.data.picture import picture_of
from otherview.data.source import Source
from otherview.data.spec import open_aloud
from otherview.errors import WrongRequest
from otherview.evaluation.backbone import load_backbone
from otherview.evaluation.embedding import read_embedding
from otherview.evaluation.features import FeatureSpec
from otherview.evaluation.retrieval import (
    found_places,
    most_similar,
    pairs,
    patches_of_pairs,
    share_found,
    without_position,
)
from otherview.evaluation.token_settings import (
    AttentionSettings,
    ComponentsSettings,
    MatchesSettings,
    NeighboursSettings,
    TokenPictureSettings,
)
from otherview.evaluation.whole_images import prepared
from otherview.nn.encoder import Encoder
from otherview.report.drawn_tokens import (
    Shown,
    draw_attention,
    draw_components,
    draw_matches,
    draw_neighbours,
    shortened,
)
from otherview.report.pictures import save_picture
from otherview.report.view_pictures import check_drawn, check_first, readable
from otherview.signature import takes
from otherview.views.view import normalise
from otherview.weights.names import check_weights, load_encoder
from otherview.weights.pretrained import PretrainedEncoder

BASIS_IMAGES = 100
"""So many images share the basis of principal components."""


@takes(AttentionSettings)
def attention(settings: AttentionSettings) -> dict[str, Any]:
    """Draw what the cls token attends to; returns where the picture is."""
    source = _open(settings)
    return save_picture(
        attention_figure(_loaded(settings, source), source, settings.first, settings.count), settings.out
    )


@takes(ComponentsSettings)
def components(settings: ComponentsSettings) -> dict[str, Any]:
    """Draw principal components of patch tokens as colours; returns where the picture is."""
    source = _open(settings)
    return save_picture(
        components_figure(_loaded(settings, source), source, settings.first, settings.count), settings.out
    )


@takes(MatchesSettings)
def matches(settings: MatchesSettings) -> dict[str, Any]:
    """Draw which patches of two views match; returns where the picture is and the share that is right."""
    figure, found = _matches_figure(settings, _open(settings))
    return {**save_picture(figure, settings.out), **found}


@takes(NeighboursSettings)
def neighbours(settings: NeighboursSettings) -> dict[str, Any]:
    """Draw images beside their nearest neighbours; returns where the picture is."""
    return save_picture(_neighbours_figure(settings, _open(settings)), settings.out)


def _open(settings: TokenPictureSettings | NeighboursSettings) -> Source:
    check_drawn(settings.out, settings.count)
    if isinstance(settings, TokenPictureSettings):
        check_weights(settings.weights)
    source = open_aloud(settings.data)
    check_first(settings.first, source, settings.data)
    return source


def _loaded(settings: TokenPictureSettings, source: Source) -> PretrainedEncoder:
    """The encoder, with what the values of these images mean."""
    loaded = load_encoder(settings.weights)
    loaded.card = loaded.card.seeing(settled(source, loaded.card.preprocessing, flag="--data", fixed=True))
    return loaded


def _matches_figure(settings: MatchesSettings, source: Source) -> tuple[Figure, dict[str, Any]]:
    """The picture, and the share of patches that find their place with its standard error."""
    backbone = load_backbone(settings.weights)
    preprocessing = settled(source, backbone.preprocessing, flag="--data", fixed=True)
    indices = np.arange(settings.first, min(settings.first + max(settings.judged, settings.count), len(source)))
    if len(indices) < 2:
        raise WrongRequest(
            f"--data {settings.data} has {len(indices)} image from --first on: matching needs two or more"
        )
    spec = FeatureSpec(backbone.patch_size)
    batches = list(pairs(source, indices, preprocessing, backbone.grid, seed=settings.seed, workers=0))
    tokens, crops = patches_of_pairs({"it": backbone.encoder}, batches, preprocessing, spec=spec)
    online, target = map(without_position, tokens["it"])
    right, shown = found_places(online, target, crops, backbone.grid)
    share, spread, n = share_found(right, shown)
    count = min(settings.count, len(batches[0].online.pixels))
    arrays = (part[:count].numpy() for part in (most_similar(online, target), right, shown))
    return draw_matches(batches[0], *arrays, grid=backbone.grid), {"found": share, "spread": spread, "n": n}


def attention_figure(loaded: PretrainedEncoder, source: Source, first: int, count: int) -> Figure:
    """What cls attends to in `count` images from `first` on."""
    pixels = _pixels(loaded, source, first, count)
    found = cls_attention(loaded.encoder, normalise(pixels, loaded.card.mean, loaded.card.std))
    return draw_attention(_shown(pixels), found.unflatten(2, tuple(loaded.card.grid)).numpy())


def components_figure(loaded: PretrainedEncoder, source: Source, first: int, count: int) -> Figure:
    """Principal components of the patches of `count` images from `first` on, and of the untrained encoder's."""
    pixels = _pixels(loaded, source, first, count)
    basis = torch.cat([pixels, _pixels(loaded, source, 0, BASIS_IMAGES)])
    images = normalise(basis, loaded.card.mean, loaded.card.std)
    encoders = {"trained": loaded.encoder, "untrained": Encoder(loaded.card.encoder, seed=loaded.card.seed).eval()}
    with torch.no_grad():
        colours = {
            name: component_colours(encoder(images).patches)[: len(pixels)]
            .unflatten(1, tuple(loaded.card.grid))
            .numpy()
            for name, encoder in encoders.items()
        }
    return draw_components(_shown(pixels), colours)


def _pixels(loaded: PretrainedEncoder, source: Source, first: int, count: int) -> Any:
    """[images, C, H, W] as the encoder wants them."""
    preprocessing = loaded.card.preprocessing

    def centred(index: int) -> torch.Tensor:
        return torch.from_numpy(prepared(picture_of(source, index, preprocessing), preprocessing))

    return torch.stack(readable(source, first, count, centred))


def _shown(pixels: Any) -> list[np.ndarray]:
    return [image.permute(1, 2, 0).numpy() for image in pixels]


def _neighbours_figure(settings: NeighboursSettings, source: Source) -> Figure:
    names, features = read_embedding(settings.embedding)
    if features.ndim != 2:
        raise WrongRequest(f"{settings.embedding} holds patch tokens: embed mean or cls tokens to compare images")
    place = {source.name(index): index for index in range(len(source))}
    if unknown := next((name for name in names if name not in place), None):
        raise WrongRequest(
            f"{settings.data} has no image {unknown}: give the data that {settings.embedding} was made of"
        )
    if settings.nearest < 1 or settings.nearest >= len(names):
        raise WrongRequest(f"--nearest {settings.nearest} must lie between 1 and {len(names) - 1}")
    rows = range(settings.first, min(settings.first + settings.count, len(names)))
    unit = torch.nn.functional.normalize(features, dim=1)
    similar = unit[list(rows)] @ unit.T
    for line, row in enumerate(rows):
        similar[line, row] = -2  # not itself
    values, found = similar.topk(settings.nearest, dim=1)

    def seen(row: int, likeness: float | None = None) -> Shown:
        return neighbour(source, place[names[row]], likeness)

    nearest = [
        [seen(other, value) for other, value in zip(*some, strict=True)]
        for some in zip(found.tolist(), values.tolist(), strict=True)
    ]
    return draw_neighbours([seen(row) for row in rows], [("", nearest)])


def neighbour(source: Source, index: int, likeness: float | None = None) -> Shown:
    """An image with its name, its class where it has one, and how similar it is."""
    words = [shortened(source.name(index))]
    if (label := source.label(index)) is not None:
        words.append(str(source.classes[label]) if source.classes else f"class {label}")
    if likeness is not None:
        words.append(f"{likeness:.3f}")
    return Shown(picture_of(source, index).decode(), "\n".join(words))


@torch.no_grad()
def cls_attention(encoder: Encoder, images: Float[Tensor, "B C X Y"]) -> Float[Tensor, "B H L"]:
    """How much cls attends to each patch in the last block, by head; with what goes to other tokens it sums to 1."""
    if not encoder.settings.class_token:
        raise WrongRequest("this encoder has no class token whose attention could be shown")
    depth = encoder.settings.depth
    before = encoder(images, block=depth - 1).sequence if depth > 1 else encoder.entering(images)
    block = encoder.vit.blocks[depth - 1]
    attention = block.attn
    batch, count, width = before.shape
    heads = encoder.settings.heads
    joined = attention.qkv(block.norm1(before)).view(batch, count, 3, heads, width // heads)  # pyright: ignore
    queries, keys, _ = joined.permute(2, 0, 3, 1, 4)
    scores = (queries[:, :, :1] @ keys.transpose(-2, -1)) * (width // heads) ** -0.5
    return scores.softmax(dim=-1)[:, :, 0, encoder.prefix :]


def component_colours(tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L 3"]:
    """The first three principal components of all patches of all images, each stretched to [0, 1]: one basis for all.

    What all images have at a position is taken off first, or the components would tell little else. The sign of a component
    is chosen so that its largest weight is positive; 2 % at both ends are cut off.
    """
    shared = tokens.mean(dim=0) if len(tokens) > 1 else tokens.mean(dim=1, keepdim=True)  # of one image, the mean patch
    centred = (tokens - shared).flatten(0, 1).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    basis = vectors[:, -3:].flip(1)
    basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
    found = centred @ basis
    low, high = torch.quantile(found[:: max(1, len(found) // 100_000)], torch.tensor([0.02, 0.98]).double(), dim=0)
    stretched = ((found - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return stretched.float().view(*tokens.shape[:2], 3)
