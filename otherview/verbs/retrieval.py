"""Patch retrieval between two views of an image, beside the untrained encoder's tokens and raw patches.

otherview evaluate retrieval --weights DIR --test SPEC
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores
from otherview.verbs.judging import Judging, finish, images_used, options_of, show_scores
from otherview.verbs.request import resolve_device, set_threads
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from otherview.nn.encoder import Encoder
    from otherview.weights.pretrained import Card


@dataclass(kw_only=True)
class Retrieval(Judging):
    """Do patches of one view find their place in another view of the image? Needs no labels."""

    test: str
    """Images (a data SPEC)."""
    test_images: int = 1000
    """How many of them, spread evenly; the tokens of all stay in memory."""
    seed: int = 0
    """Of the crops."""


def run(request: Retrieval) -> dict[str, Any]:
    """The verb."""
    return retrieval(request.weights, **options_of(request)).as_json()


def retrieval(weights: str | Path, *, test: str, **options: Any) -> Scores:
    """The share of patches that find their place; further options are the fields of Retrieval."""
    request = Retrieval(weights=str(weights), test=test, **options)
    began = time.monotonic()
    if request.test_images < 2:
        raise WrongRequest(f"--test-images {request.test_images} is too few: give 2 or more")
    check_weights(weights)
    from otherview.nn.encoder import Encoder
    from otherview.verbs.weights import load_encoder

    set_threads(request.threads)
    device = resolve_device(request.device)
    subject = load_encoder(weights).to(device)
    card = subject.card
    modules = {
        "encoder": subject.encoder,
        "untrained": Encoder(card.encoder, seed=card.seed).to(device),
        "pixels": None,
    }
    scores = _judge(modules, request, card)
    about = {"test": test, "views_seed": request.seed}
    return finish(request, scores[:1], scores[1:], card=card, about=about, began=began)


def _judge(modules: "dict[str, Encoder | None]", request: Retrieval, card: "Card") -> list[Score]:
    """The score of every module on the same views."""
    from otherview.data.spec import open_source
    from otherview.evaluation.features import first_of
    from otherview.evaluation.retrieval import pairs, retrieve, share_found
    from otherview.geometry import PatchGrid
    from otherview.training.console import RunProgress

    source, grid, look = open_source(request.test), PatchGrid(*card.encoder.grid), card.look
    indices = first_of(source, images_used(request.test_images))
    with RunProgress(total=len(indices), title="views") as progress:
        found = retrieve(
            modules, pairs(source, indices, look, grid, seed=request.seed, workers=request.workers), look,
            grid=grid, patch_size=card.encoder.patch_size, advance=progress.advance,
        )  # fmt: skip
    scores = []
    for name, (places, shown) in found.items():
        if shown.any(dim=1).sum() < 2:
            raise WrongRequest(
                f"{request.test} has fewer than 2 images that can be read and share something: give more"
            )
        share, spread, n = share_found(places, shown)
        scores.append(Score(f"retrieval_{name}", share, "share of patches", n, spread))
    return scores


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)
