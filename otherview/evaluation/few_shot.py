"""Few labels: multinomial logistic regression on frozen features of a few images per class (specification 2).

The protocol is that of masked siamese networks (Assran et al., arXiv 2204.07141): a feature less its own mean over channels,
divided by its length; mean cross-entropy + (strength / 2)·‖W‖² without an intercept, minimised by L-BFGS, one fit.

Axes: N images, D width, K classes.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.data.image import Preprocessing
from otherview.distributed import computed_by_first
from otherview.errors import WrongRequest
from otherview.evaluation.backbone import Backbone, load_backbone
from otherview.evaluation.features import FeatureSpec
from otherview.evaluation.frozen import FeatureMaker, Known, cache_of, features_of, label_of, modules_of
from otherview.evaluation.linear import minimised
from otherview.evaluation.result import chance_of, check_crop_pct, finish
from otherview.evaluation.settings import FewShotSettings
from otherview.evaluation.split import Split, open_splits, with_fingerprints
from otherview.launch import launched_rank
from otherview.nn.encoder import Encoder
from otherview.nn.heads import ClassHead
from otherview.scores import Score, Scores, drawn_score
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on
from otherview.weights.names import check_weights, folder_of, load_encoder, named
from otherview.weights.pretrained import save_classifier

STRENGTH = 0.1
"""Times 1/N; scikit-learn's C = 10 whatever N is."""


def to_unit(features: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Each feature less its own mean over channels, divided by its length."""
    return F.normalize(features - features.mean(dim=1, keepdim=True), dim=1)


def objective(
    weight: Float[Tensor, "D K"], features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, strength: float
) -> Float[Tensor, ""]:
    """What is minimised."""
    return F.cross_entropy(features @ weight, labels) + 0.5 * strength * weight.square().sum()


def fit(
    features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, strength: float | None = None, iterations: int = 500
) -> Float[Tensor, "D K"]:
    """The weights of unit features; `strength` is STRENGTH / N by default."""
    strength = STRENGTH / len(labels) if strength is None else strength
    weight = torch.zeros(features.shape[1], int(labels.max()) + 1)
    loss = partial(objective, features=features, labels=labels, strength=strength)
    return minimised(loss, weight, iterations=iterations, least_gradient=1e-10, least_change=1e-12)


class Draw(NamedTuple):
    """A choice of images to learn from."""

    name: str
    """'1 %', '5 shots' or the list's file name."""
    number: int
    """Which draw of this kind, counted from 0."""
    chosen: np.ndarray
    """Places of the images, ascending."""


def draw_shots(labels: np.ndarray, shots: int, *, number: int, seed: int) -> Draw:
    """So many images of every class, at random; raises WrongRequest where a class has fewer."""
    if shots < 1:
        raise WrongRequest(f"--shots {shots} is too few: give 1 or more")
    counts = np.bincount(labels)
    short = [(int(count), kind) for kind, count in enumerate(counts) if 0 < count < shots]
    if short:
        count, kind = min(short)
        raise WrongRequest(
            f"--shots {shots} are more images than class {kind} has ({count}): use --shots {count} or fewer"
        )
    return Draw(f"{shots} shots", number, _of_every_class(labels, lambda _: shots, (seed, number)))


def draw_shares(labels: np.ndarray, share: float, *, number: int, seed: int) -> Draw:
    """A share of every class, at random, rounded, and at least one image of each."""
    if not 0 < share <= 1:
        raise WrongRequest(f"--shares {share:g} is no share of the images: give a number above 0 and up to 1")
    chosen = _of_every_class(labels, lambda count: max(1, round(share * count)), (seed, number))
    return Draw(f"{100 * share:g} %", number, chosen)


def _of_every_class(labels: np.ndarray, wanted: Callable[[int], int], key: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(key)
    found = []
    for kind in np.unique(labels):
        members = np.flatnonzero(labels == kind)
        found.append(rng.choice(members, wanted(len(members)), replace=False))
    return np.sort(np.concatenate(found))


def draw_listed(names: Sequence[str], listed: Sequence[str], *, name: str) -> Draw:
    """The images whose names stand in a list, with their folders or, where no two are alike, without.

    Raises WrongRequest for names that are not there, or that several images have.
    """
    short = Counter(image.rsplit("/", 1)[-1] for image in names)
    places = {image.rsplit("/", 1)[-1]: place for place, image in enumerate(names)}
    places |= {image: place for place, image in enumerate(names)}
    whole = set(names)
    several = [entry for entry in listed if entry not in whole and short[entry.rsplit("/", 1)[-1]] > 1]
    if several:
        raise WrongRequest(f"--list {name}: {several[0]!r} is the name of several images: write it with its folder")
    listed = [entry if entry in places else entry.rsplit("/", 1)[-1] for entry in listed]
    missing = [entry for entry in listed if entry not in places]
    if missing or not listed:
        what = (
            f"{len(missing)} of {len(listed)} names are not in --train ({missing[0]!r} first)"
            if missing
            else "it is empty"
        )
        raise WrongRequest(f"--list {name}: {what}; give a text file with one image's file name a line")
    return Draw(name, 0, np.unique([places[entry] for entry in listed]))


@takes(FewShotSettings)
def few_shot(settings: FewShotSettings) -> Scores:
    """Accuracy from few labels, mean and spread over draws, next to the untrained encoder and raw pixels."""
    began = time.monotonic()
    check_crop_pct(settings.crop_pct)
    if settings.draws < 1:
        raise WrongRequest(f"--draws {settings.draws} is too few: give 1 or more")
    check_weights(settings.weights)
    bank, queries = open_splits(settings)
    draws = [*_draws(bank, settings)]
    if not draws:
        raise WrongRequest("nothing to learn from: give --shares, --shots or --list")
    device = compute_on(settings)
    backbone = load_backbone(settings.weights).to(device)
    backbone.check_block(settings.block)
    backbone = backbone.shown(settings)
    found = _judge(backbone, bank, queries, draws=draws, settings=settings)
    about = {
        "train": settings.train, "test": settings.judged_on, "crop_pct": settings.crop_pct,
        **backbone.preprocessing.about,
        **({"list": str(settings.list)} if settings.list else {"draws": settings.draws, "draws_seed": settings.seed}),
    }  # fmt: skip
    return finish(settings, found, known=backbone.about, about=about, began=began, chance=chance_of(queries.labels))


def _draws(bank: Split, settings: FewShotSettings) -> Iterator[Draw]:
    labels = bank.labels.numpy()
    if settings.list is not None:
        try:
            lines = settings.list.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongRequest(
                f"--list {settings.list} cannot be read ({error}): give a text file of file names"
            ) from error
        listed = [line.strip() for line in lines if line.strip()]
        names = [bank.source.name(int(index)) for index in bank.indices]
        yield draw_listed(names, listed, name=settings.list.name)
        return
    for number in range(settings.draws):
        for share in settings.shares:
            yield draw_shares(labels, share, number=number, seed=settings.seed)
        for shots in settings.shots:
            yield draw_shots(labels, shots, number=number, seed=settings.seed)


def _judge(
    backbone: Backbone, bank: Split, queries: Split, *, draws: Sequence[Draw], settings: FewShotSettings
) -> dict[str, list[Score]]:
    """Features once for all images that any draw asks for; a fit for each draw and kind of feature."""
    wanted = np.unique(np.concatenate([draw.chosen for draw in draws]))
    splits = replace(bank, indices=bank.indices[wanted], labels=bank.labels[wanted]), queries
    backbone = backbone.seeing([split.source for split in splits])
    splits = with_fingerprints(
        splits, workers=settings.workers, allow_shared=settings.allow_shared, held_out=settings.test is None
    )
    images = sum(len(split.indices) for split in splits)
    preprocessing = backbone.preprocessing._replace(crop_pct=settings.crop_pct, interpolation="bilinear")
    # the protocol's features are the last block's, before the final norm
    maker = FeatureMaker(
        preprocessing, FeatureSpec(block=settings.block or backbone.depth), cache_of(settings), settings.workers
    )
    with RunProgress(total=images, title="features", speak=launched_rank() == 0) as progress:
        learned, judged = features_of(modules_of(backbone, images=images), splits, maker, advance=progress.advance)
    place = {int(index): row for row, index in enumerate(wanted[learned.kept])}
    fitted = dict[str, Tensor]()
    scores = computed_by_first(lambda: _fits(learned, judged, draws, place=place, fitted=fitted))
    if isinstance(settings.weights, str | Path) and launched_rank() == 0:
        _keep(fitted, preprocessing, bank.names, settings)
    return scores


def _keep(
    fitted: Mapping[str, Float[Tensor, "D K"]],
    preprocessing: Preprocessing,
    names: Sequence[str],
    settings: FewShotSettings,
) -> None:
    """A classifier for every draw, of the encoder's mean token, where there is a folder for it.

    A layer norm without parameters is a unit feature times the root of D.
    """
    folder = settings.out or folder_of(settings.weights)
    if folder is None or settings.block is not None:
        return
    loaded = load_encoder(named(settings.weights))
    card = loaded.card.seeing(preprocessing)
    card = card.model_copy(update={"encoder": card.encoder.model_copy(update={"final_norm": False})})
    encoder = Encoder(card.encoder)
    state = loaded.encoder.vit.state_dict()
    encoder.vit.load_state_dict({name: value for name, value in state.items() if not name.startswith("norm.")})
    for name, weight in fitted.items():
        head = ClassHead(len(weight), len(names))
        last = head[1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.zero_()
            last.weight[: weight.shape[1]] = weight.T / math.sqrt(len(weight))
            last.bias[weight.shape[1] :] = -torch.inf  # classes that no image was drawn of are never named
        (folder / "few_shot").mkdir(parents=True, exist_ok=True)
        save_classifier(folder / f"few_shot/classifier-{name}.safetensors", encoder, head, card, list(names))


def _fits(
    learned: Known, judged: Known, draws: Sequence[Draw], *, place: Mapping[int, int], fitted: dict[str, Tensor]
) -> dict[str, list[Score]]:
    """A fit for each draw and kind of feature; `place` is the row of an image among those that were learned from.

    Those of the encoder's mean token go into `fitted`, by draw.
    """
    found: dict[str, list[Score]] = {"encoder": []}
    kinds = [(name, kind) for name, tokens in learned.tokens.items() for kind in tokens]
    with RunProgress(total=len(draws) * len(kinds), title="fits") as progress:
        for name, kind in kinds:
            features, unseen = (to_unit(split.tokens[name][kind]) for split in (learned, judged))
            by_draw: dict[str, list[np.ndarray]] = {}
            for draw in draws:
                rows = torch.tensor([place[int(index)] for index in draw.chosen if int(index) in place])
                if not len(rows):
                    raise WrongRequest(f"none of the images of {draw.name}, draw {draw.number}, can be read")
                weight = fit(features[rows], learned.labels[rows])
                if (name, kind) == ("encoder", "mean"):
                    fitted[re.sub(r"[^\w.]+", "-", draw.name.replace("%", "percent")) + f"-{draw.number}"] = weight
                right = (unseen @ weight).argmax(dim=1) == judged.labels
                by_draw.setdefault(draw.name, []).append(right.numpy())
                progress.advance(1)
            found.setdefault(name, []).extend(
                drawn_score(f"few_shot_{label_of(name, kind)} ({words})", right) for words, right in by_draw.items()
            )
    return found
