"""Patch retrieval between two views of an image, beside the untrained encoder's tokens and raw patches.

otherview evaluate retrieval --weights DIR --test SPEC
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores
from otherview.training.launch import launched_rank
from otherview.verbs.judging import Judging, compute_on, finish, images_used, options_of, show_scores
from otherview.verbs.weights import check_weights, load_subject

if TYPE_CHECKING:
    from otherview.evaluation.subject import Subject


@dataclass(kw_only=True)
class Retrieval(Judging):
    """Do patches of one view find their place in another view of the image? Needs no labels."""

    test: str
    """Images (a data SPEC)."""
    test_images: int = 1000
    """How many of them, spread evenly; the tokens of all stay in memory."""
    block: int | None = None
    """Judge the tokens after this block, counted from 1; default: the last."""
    seed: int = 0
    """Of the crops."""


def run(request: Retrieval) -> dict[str, Any]:
    """The verb."""
    return retrieval(request.weights, **options_of(request)).as_json()


def retrieval(weights: "str | Path | Subject", *, test: str, **options: Any) -> Scores:
    """The share of patches that find their place; further options are the fields of Retrieval."""
    request = Retrieval(weights=str(weights), test=test, **options)
    began = time.monotonic()
    if request.test_images < 2:
        raise WrongRequest(f"--test-images {request.test_images} is too few: give 2 or more")
    check_weights(weights)
    device = compute_on(request)
    subject = load_subject(weights).to(device)
    subject.check_block(request.block)
    subject.check_patches()
    about = {"test": test, "views_seed": request.seed}
    return finish(request, _judge(subject, request), known=subject.about, about=about, began=began)


def _judge(subject: "Subject", request: Retrieval) -> dict[str, list[Score]]:
    """The score of every module on the same views."""
    from otherview.data.spec import open_source
    from otherview.evaluation.features import Asked, first_of
    from otherview.evaluation.retrieval import pairs, retrieve, share_found
    from otherview.training.console import RunProgress

    source, grid, look = open_source(request.test), subject.grid, subject.look
    indices = first_of(source, images_used(request.test_images))
    with RunProgress(total=len(indices), title="views", speak=launched_rank() == 0) as progress:
        found = retrieve(
            {**subject.modules, "pixels": None},
            pairs(source, indices, look, grid, seed=request.seed, workers=request.workers), look,
            grid=grid, asked=Asked(subject.patch_size, request.block), advance=progress.advance,
        )  # fmt: skip
    scores = {}
    for name, (places, shown) in found.items():
        if shown.any(dim=1).sum() < 2:
            raise WrongRequest(
                f"{request.test} has fewer than 2 images that can be read and share something: give more"
            )
        share, spread, n = share_found(places, shown)
        scores[name] = [Score(f"retrieval_{name}", share, "share of patches", n, spread)]
    return scores


show = show_scores
