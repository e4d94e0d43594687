"""Frozen features judged by a classifier, always next to the untrained control and to raw pixels.

judge(modules_of(backbone, images=60_000), (train, test), FeatureMaker(preprocessing), Protocol("knn", {"k": 20}, classify))
# {"encoder_mean": …, "pixels": …}, truth
"""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from otherview.config import token_of
from otherview.data.image import Preprocessing
from otherview.data.index_cache import cache_folder
from otherview.distributed import computed_by_first, gather_objects, ranks
from otherview.errors import WrongRequest
from otherview.evaluation.backbone import Backbone, load_backbone
from otherview.evaluation.cache import FeatureCache
from otherview.evaluation.class_report import class_report
from otherview.evaluation.features import WHOLE, FeatureSpec
from otherview.evaluation.result import chance_of, finish, write_confusion
from otherview.evaluation.settings import ClassifiedSettings, FrozenSettings
from otherview.evaluation.split import Advance, Split, open_splits, with_fingerprints
from otherview.files import check_written
from otherview.launch import launched_rank
from otherview.scores import Score, Scores, accuracy_score
from otherview.training.console import RunProgress
from otherview.training.device import compute_on
from otherview.weights.names import check_weights

Classify = Callable[
    [Float[Tensor, "N D"], Int[Tensor, " N"], Float[Tensor, "Q D"]],
    dict[str, Int[Tensor, " Q"]],
]
"""Features and labels of the training images and features of the test images in, predicted classes out, by setting."""
MOST_PIXELS = 4 * 2**30
"""Bytes of raw pixels that are held as features; beyond, that control is left out."""


class Known(NamedTuple):
    """Features of a split by module and kind of token, of the images that could be read."""

    tokens: dict[str, dict[str, Float[Tensor, "N *L D"]]]
    labels: Int[Tensor, "N *pixels"]
    kept: Int[Tensor, " N"]
    """Places in the split's list of images."""


class Protocol(NamedTuple):
    """A classifier of frozen features with the name and settings that stand in the results."""

    name: str
    settings: dict[str, Any]
    classify: Classify
    least_images: int = 1
    """To learn from."""
    shared: bool = False
    """Whether each rank holds its share of the training images alone, and `classify` joins what all ranks find."""


class FeatureMaker(NamedTuple):
    """How the images of both splits become features."""

    preprocessing: Preprocessing
    spec: FeatureSpec = WHOLE
    cache: FeatureCache = FeatureCache(None)
    workers: int = 1


def modules_of(backbone: Backbone, *, images: int) -> dict[str, nn.Module | None]:
    """What is judged: the encoder, its untrained twin and, where they fit into memory, raw pixels."""
    size = 4 * images * backbone.preprocessing.channels * prod(backbone.preprocessing.size)
    if size <= MOST_PIXELS:
        return {**backbone.modules, "pixels": None}
    print(f"raw pixels are left out: they would take {size / 2**30:.0f} GB of memory", file=sys.stderr)
    return dict(backbone.modules)


def label_of(module: str, kind: str) -> str:
    """What a score is called: encoder_mean, pixels."""
    return module if module == kind else f"{module}_{kind}"


def features_of(
    modules: Mapping[str, nn.Module | None],
    splits: tuple[Split, Split],
    maker: FeatureMaker,
    *,
    advance: Advance = lambda _: None,
    shared: bool = False,
) -> tuple[Known, Known]:
    """The features of both splits; raises WrongRequest where none of a split's images can be read.

    With `shared` every rank gets those of its own training images, and of all test images.
    """
    known: list[Known] = []
    for flag, split in zip(("--train", "--test"), splits, strict=True):
        found = maker.cache.features(
            modules, split.source, maker.preprocessing, indices=split.indices, fingerprints=split.fingerprints,
            workers=maker.workers,
            advance=advance, spec=maker.spec, shared=shared and flag == "--train",
        )  # fmt: skip
        kept = next(iter(found.values())).kept
        if not sum(gather_objects(len(kept))):
            raise WrongRequest(f"none of the images of {flag} can be read: `otherview doctor` says why")
        tokens = {name: features.tokens for name, features in found.items()}
        known.append(Known(tokens, split.labels[kept], kept))
    return known[0], known[1]


def judge(
    modules: Mapping[str, nn.Module | None],
    splits: tuple[Split, Split],
    maker: FeatureMaker,
    protocol: Protocol,
    *,
    advance: Advance = lambda _: None,
) -> tuple[dict[str, Int[Tensor, " Q"]], Int[Tensor, " Q"]]:
    """Predicted classes by module and token (encoder_mean, encoder_cls, untrained_mean, untrained_cls, pixels); the true ones.

    Where the classifier has several settings, their words follow: 'encoder_mean (k 5)'.
    """
    shared = protocol.shared and ranks() > 1
    train, test = features_of(modules, splits, maker, advance=advance, shared=shared)
    labels = blake2b(train.labels.numpy().tobytes()).hexdigest()
    question = f"{protocol.name} {protocol.settings} {len(splits[0].fingerprints)} {labels}"
    fingerprints = [*splits[0].fingerprints, *splits[1].fingerprints]
    found: dict[str, Int[Tensor, " Q"]] = {}
    for name, tokens in train.tokens.items():
        for kind, bank in tokens.items():
            answer = partial(protocol.classify, bank, train.labels, test.tokens[name][kind])
            pixels = modules[name] is None
            if pixels and not shared:
                kept = (question, maker.preprocessing, maker.spec, fingerprints)
                answer = partial(maker.cache.answers, *kept, answer=answer)
            # what is not shared out is fitted once, whatever the number of ranks
            answers = answer() if shared else computed_by_first(answer)
            found |= {label_of(name, kind) + words: predicted for words, predicted in answers.items()}
    return found, test.labels


def judge_frozen(settings: ClassifiedSettings, protocol: Protocol) -> Scores:
    """Judge an encoder by a protocol next to its controls; writes one line of results.jsonl."""
    began = time.monotonic()
    check_weights(settings.weights)
    if settings.confusion:
        check_written(settings.confusion, flag="--confusion")
    splits = open_splits(settings)
    if protocol.least_images > (bank := len(splits[0].indices)):
        raise WrongRequest(
            f"--k {protocol.least_images} is larger than the {bank} training images: use --k {bank} or less"
        )
    backbone = load_backbone(settings.weights).to(compute_on(settings))
    backbone.check_block(settings.block)
    backbone = backbone.shown(settings).seeing([split.source for split in splits])
    splits = with_fingerprints(
        splits, workers=settings.workers, allow_shared=settings.allow_shared, held_out=settings.test is None
    )
    images = sum(len(split.indices) for split in splits)
    maker = FeatureMaker(
        backbone.preprocessing, FeatureSpec(block=settings.block), cache_of(settings), settings.workers
    )
    with RunProgress(total=images, title="features", speak=launched_rank() == 0) as progress:
        predicted, truth = judge(modules_of(backbone, images=images), splits, maker, protocol, advance=progress.advance)
    own = f"encoder_{token_of(backbone.about.get('method'))}"
    first = predicted[next((kind for kind in predicted if kind.startswith(own)), next(iter(predicted)))]
    if settings.confusion and launched_rank() == 0:
        write_confusion(settings.confusion, truth.numpy(), first.numpy(), names=splits[0].names)
    report = class_report(truth.numpy(), first.numpy(), list(splits[0].names))
    found: dict[str, list[Score]] = {"encoder": []}
    for kind, guesses in predicted.items():
        score = accuracy_score(f"{protocol.name}_{kind}", (guesses == truth).numpy())
        found.setdefault(kind.split("_")[0], []).append(score)
    about = {
        "train": settings.train, "test": settings.judged_on, "train_images": len(splits[0].indices), **protocol.settings,
        **backbone.preprocessing.about,
    }  # fmt: skip
    return finish(
        settings, found, known=backbone.about, about=about, began=began, chance=chance_of(truth), report=report
    )


def cache_of(settings: FrozenSettings) -> FeatureCache:
    """Where features are kept, if they are."""
    return FeatureCache(cache_folder() / "features" if settings.cache else None)
