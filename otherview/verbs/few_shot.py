"""How good is an encoder with few labels: the MSN protocol, several draws, beside the untrained control and raw pixels.

otherview evaluate few-shot --weights DIR --train SPEC --test SPEC --shares 0.01 0.1 --shots 1 5
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores, drawn_score
from otherview.training.launch import launched_rank
from otherview.verbs.judging import (
    Evaluate,
    Frozen,
    cache_of,
    check_shown,
    compute_on,
    finish,
    open_sides,
    options_of,
    read_contents,
    show_scores,
)
from otherview.verbs.weights import check_weights, load_subject

if TYPE_CHECKING:
    from otherview.evaluation.few_shot import Draw
    from otherview.evaluation.frozen import Side
    from otherview.evaluation.subject import Subject


@dataclass(kw_only=True)
class FewShot(Evaluate, Frozen):
    """Logistic regression on the features of a few labelled images (the MSN protocol: no intercept, one fit a draw)."""

    shares: tuple[float, ...] = (0.01,)
    """Shares of every class's images to learn from; at least one image of each."""
    shots: tuple[int, ...] = ()
    """Images of every class to learn from."""
    list: Path | None = None
    """A text file with one image's file name a line (ImageNet's published 1 % list, say): learn from those instead."""
    draws: int = 3
    """How many times the images of a share or a number of shots are drawn anew."""
    seed: int = 0
    """Of the draws."""
    shown: float = 0.875
    """Share of the shorter side that the centre crop leaves (224 of 256 in the protocol); 1 for small images."""


def run(request: FewShot) -> dict[str, Any]:
    """The verb."""
    return few_shot(request.weights, **options_of(request)).as_json()


def few_shot(weights: "str | Path | Subject", *, train: str, test: str, **options: Any) -> Scores:
    """Accuracy from few labels, mean and spread over draws; further options are the fields of FewShot."""
    request = FewShot(weights=str(weights), train=train, test=test, **options)
    began = time.monotonic()
    check_shown(request.shown)
    if request.draws < 1:
        raise WrongRequest(f"--draws {request.draws} is too few: give 1 or more")
    check_weights(weights)
    bank, queries = open_sides(train, test, request)
    draws = [*_draws(bank, request)]
    if not draws:
        raise WrongRequest("nothing to learn from: give --shares, --shots or --list")
    device = compute_on(request)
    subject = load_subject(weights).to(device)
    subject.check_block(request.block)
    found = _judge(subject, bank, queries, draws=draws, request=request)
    about = {
        "train": train, "test": test, "shown": request.shown,
        **({"list": str(request.list)} if request.list else {"draws": request.draws, "draws_seed": request.seed}),
    }  # fmt: skip
    return finish(request, found, known=subject.about, about=about, began=began)


def _draws(bank: "Side", request: FewShot) -> "Iterator[Draw]":
    from otherview.evaluation import few_shot as drawing

    labels = bank.labels.numpy()
    if request.list is not None:
        try:
            lines = request.list.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongRequest(
                f"--list {request.list} cannot be read ({error}): give a text file of file names"
            ) from error
        listed = [line.strip() for line in lines if line.strip()]
        names = [bank.source.name(int(index)) for index in bank.indices]
        yield drawing.draw_listed(names, listed, name=request.list.name)
        return
    for number in range(request.draws):
        for share in request.shares:
            yield drawing.draw_shares(labels, share, number=number, seed=request.seed)
        for shots in request.shots:
            yield drawing.draw_shots(labels, shots, number=number, seed=request.seed)


def _judge(
    subject: "Subject", bank: "Side", queries: "Side", *, draws: "Sequence[Draw]", request: FewShot
) -> dict[str, list[Score]]:
    """Features once for all images that any draw asks for; a fit for each draw and kind of feature."""
    import torch

    from otherview.evaluation.features import Asked
    from otherview.evaluation.few_shot import fit, to_unit
    from otherview.evaluation.frozen import Seen, features_of, label_of, subjects_of
    from otherview.evaluation.knn import accuracy
    from otherview.training.console import RunProgress

    wanted = np.unique(np.concatenate([draw.chosen for draw in draws]))
    sides = replace(bank, indices=bank.indices[wanted], labels=bank.labels[wanted]), queries
    sides = read_contents(sides, workers=request.workers, allow_shared=request.allow_shared)
    images, speak = sum(len(side.indices) for side in sides), launched_rank() == 0
    look = subject.look._replace(shown=request.shown, resize="bilinear")
    # the protocol's features are the last block's, before the final norm
    seen = Seen(look, Asked(block=request.block or subject.depth), cache_of(request), request.workers)
    with RunProgress(total=images, title="features", speak=speak) as progress:
        learned, judged = features_of(subjects_of(subject, images=images), sides, seen, advance=progress.advance)
    place = {int(index): row for row, index in enumerate(wanted[learned.kept])}
    found: dict[str, list[Score]] = {"encoder": []}
    kinds = [(name, kind) for name, tokens in learned.tokens.items() for kind in tokens]
    with RunProgress(total=len(draws) * len(kinds), title="fits", speak=speak) as progress:
        for name, kind in kinds:
            features, asked = (to_unit(side.tokens[name][kind]) for side in (learned, judged))
            by_draw: dict[str, list[float]] = {}
            for draw in draws:
                rows = torch.tensor([place[int(index)] for index in draw.chosen if int(index) in place])
                if not len(rows):
                    raise WrongRequest(f"none of the images of {draw.name}, draw {draw.number}, can be read")
                weight = fit(features[rows], learned.labels[rows])
                predicted = (asked @ weight).argmax(dim=1)
                by_draw.setdefault(draw.name, []).append(accuracy(predicted, judged.labels))
                progress.advance(1)
            found.setdefault(name, []).extend(
                drawn_score(f"few_shot_{label_of(name, kind)} ({words})", values, len(judged.labels))
                for words, values in by_draw.items()
            )
    return found


show = show_scores
