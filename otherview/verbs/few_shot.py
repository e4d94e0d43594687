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
from otherview.verbs.judging import Evaluate, finish, open_sides, options_of, show_scores
from otherview.verbs.request import resolve_device, set_threads
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from otherview.evaluation.few_shot import Draw
    from otherview.evaluation.frozen import Side


@dataclass(kw_only=True)
class FewShot(Evaluate):
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


def few_shot(weights: str | Path, *, train: str, test: str, **options: Any) -> Scores:
    """Accuracy from few labels, mean and spread over draws; further options are the fields of FewShot."""
    request = FewShot(weights=str(weights), train=train, test=test, **options)
    began = time.monotonic()
    if request.draws < 1 or not 0 < request.shown <= 1:
        raise WrongRequest(
            f"--draws {request.draws} must be 1 or more and --shown {request.shown:g} above 0 and up to 1"
        )
    check_weights(weights)
    bank, queries = open_sides(train, test, request)
    draws = [*_draws(bank, request)]
    if not draws:
        raise WrongRequest("nothing to learn from: give --shares, --shots or --list")
    from otherview.verbs.weights import load_encoder

    set_threads(request.threads)
    subject = load_encoder(weights).to(resolve_device(request.device))
    scores = _judge(subject, bank, queries, draws=draws, request=request)
    mine = [score for score in scores if score.name.startswith("few_shot_encoder")]
    about = {
        "train": train, "test": test, "shown": request.shown,
        **({"list": str(request.list)} if request.list else {"draws": request.draws, "draws_seed": request.seed}),
    }  # fmt: skip
    rest = [score for score in scores if score not in mine]
    return finish(request, mine, rest, card=subject.card, about=about, began=began)


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


def _judge(subject: Any, bank: "Side", queries: "Side", *, draws: "Sequence[Draw]", request: FewShot) -> list[Score]:
    """Features once for all images that any draw asks for; a fit for each draw and kind of feature."""
    import torch

    from otherview.evaluation.few_shot import fit, to_unit
    from otherview.evaluation.frozen import features_of, subjects_of
    from otherview.evaluation.knn import accuracy
    from otherview.training.console import RunProgress

    wanted = np.unique(np.concatenate([draw.chosen for draw in draws]))
    sides = replace(bank, indices=bank.indices[wanted], labels=bank.labels[wanted]), queries
    look = subject.card.look._replace(shown=request.shown, resize="bilinear")
    subjects = subjects_of(subject.encoder, seed=subject.card.seed, images=sum(len(side.indices) for side in sides))
    with RunProgress(total=sum(len(side.indices) for side in sides), title="features") as progress:
        learned, judged = features_of(
            subjects, sides, look, workers=request.workers, advance=progress.advance, normed=False,
            allow_shared=request.allow_shared,
        )  # fmt: skip
    place = {int(index): row for row, index in enumerate(wanted[learned.kept])}
    found: dict[tuple[str, str], list[float]] = {}
    kinds = [(name, kind) for name, tokens in learned.tokens.items() for kind in tokens]
    with RunProgress(total=len(draws) * len(kinds), title="fits") as progress:
        for name, kind in kinds:
            features, asked = (to_unit(side.tokens[name][kind]) for side in (learned, judged))
            for draw in draws:
                rows = torch.tensor([place[int(index)] for index in draw.chosen if int(index) in place])
                if not len(rows):
                    raise WrongRequest(f"none of the images of {draw.name}, draw {draw.number}, can be read")
                weight = fit(features[rows], learned.labels[rows])
                predicted = (asked @ weight).argmax(dim=1)
                label = "_".join(filter(None, (name, kind)))
                found.setdefault((draw.name, label), []).append(accuracy(predicted, judged.labels))
                progress.advance(1)
    n = len(judged.labels)
    return [drawn_score(f"few_shot_{label} ({draw})", values, n) for (draw, label), values in found.items()]


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)
