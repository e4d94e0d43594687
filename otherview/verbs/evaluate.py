"""How good is an encoder: frozen features next to the untrained control and raw pixels.

otherview evaluate knn --weights DIR --train SPEC --test SPEC
otherview.evaluate.knn("runs/first", train="…", test="…")
otherview.evaluate.knn(otherview.subject(module, …), train="…", test="…")
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores, accuracy_score
from otherview.training.launch import launched_rank
from otherview.verbs.detect import detect
from otherview.verbs.few_shot import few_shot
from otherview.verbs.finetune import finetune
from otherview.verbs.judging import (
    Evaluate,
    Frozen,
    cache_of,
    compute_on,
    finish,
    open_sides,
    options_of,
    read_contents,
    show_scores,
)
from otherview.verbs.linear_segment import linear_segment
from otherview.verbs.probe import probe
from otherview.verbs.request import check_written
from otherview.verbs.retrieval import retrieval
from otherview.verbs.robustness import robustness
from otherview.verbs.segment import segment
from otherview.verbs.weights import check_weights, load_subject

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Protocol
    from otherview.evaluation.subject import Subject

__all__ = [
    "detect", "few_shot", "finetune", "knn", "linear", "linear_segment", "probe", "retrieval", "robustness",
    "segment",
]  # fmt: skip


@dataclass(kw_only=True)
class Classified(Evaluate, Frozen):
    """Flags of evaluations whose classes can be confused."""

    confusion: Path | None = None
    """Also write what the first score's classes are taken for, and the accuracy of each, here: *.csv."""


@dataclass(kw_only=True)
class Knn(Classified):
    """Weighted k-nearest neighbours: the k most similar training images vote."""

    k: tuple[int, ...] = (20,)
    """How many neighbours vote; several are tried in one pass."""
    temperature: tuple[float, ...] = (0.07,)
    """A vote weighs exp(cosine similarity / temperature); several are tried in one pass."""


@dataclass(kw_only=True)
class Linear(Classified):
    """Logistic regression on frozen features, the quick linear measure (not the paper's 90-epoch probe)."""

    strength: float = 1e-4
    """Half of this times the squared weights is added to the mean cross-entropy; features are standardised."""


def run(request: Classified) -> dict[str, Any]:
    """The verb."""
    return (knn if isinstance(request, Knn) else linear)(request.weights, **options_of(request)).as_json()


def knn(
    weights: "str | Path | Subject",
    *,
    train: str,
    test: str,
    k: int | Sequence[int] = 20,
    temperature: float | Sequence[float] = 0.07,
    **options: Any,
) -> Scores:
    """Weighted kNN of the mean and cls token (specification 2); further options are the fields of Classified."""
    ks = (k,) if isinstance(k, int) else tuple(k)
    temperatures = (temperature,) if isinstance(temperature, (int, float)) else tuple(temperature)
    if not ks or not temperatures or min(ks) < 1 or min(temperatures) <= 0:
        raise WrongRequest(f"--k {ks} and --temperature {temperatures} must all be above 0")
    several = len(ks) * len(temperatures) > 1

    def classify(bank: Any, labels: Any, queries: Any) -> Any:
        from otherview.evaluation.knn import knn_sweep

        if max(ks) > len(bank):
            raise WrongRequest(
                f"--k {max(ks)} is larger than the {len(bank)} training images that can be read: use fewer"
            )
        found = knn_sweep(bank, labels, queries, ks=ks, temperatures=temperatures)
        return {f" (k {k}, temperature {t:g})" if several else "": predicted for (k, t), predicted in found.items()}

    from otherview.evaluation.frozen import Protocol

    request = Knn(weights=str(weights), train=train, test=test, k=ks, temperature=temperatures, **options)
    settings = {"k": ks, "temperature": temperatures} if several else {"k": ks[0], "temperature": temperatures[0]}
    return _evaluate(weights, request, protocol=Protocol("knn", settings, classify, least_images=max(ks)))


def linear(weights: "str | Path | Subject", *, train: str, test: str, strength: float = 1e-4, **options: Any) -> Scores:
    """Logistic regression on the mean and cls token; further options are the fields of Classified."""

    def classify(features: Any, labels: Any, queries: Any) -> Any:
        from otherview.evaluation.logistic import fit_logistic

        return {"": fit_logistic(features, labels, strength=strength).predict(queries)}

    from otherview.evaluation.frozen import Protocol

    request = Linear(weights=str(weights), train=train, test=test, strength=strength, **options)
    return _evaluate(weights, request, protocol=Protocol("linear", {"strength": strength}, classify))


def _evaluate(weights: "str | Path | Subject", request: Classified, *, protocol: "Protocol") -> Scores:
    """Judge an encoder by a protocol next to its controls; writes one line of results.jsonl."""
    check_weights(weights)
    if request.confusion:
        check_written(request.confusion, flag="--confusion")
    began = time.monotonic()
    sides = open_sides(request.train, request.test, request)
    if protocol.least_images > (bank := len(sides[0].indices)):
        raise WrongRequest(
            f"--k {protocol.least_images} is larger than the {bank} training images: use --k {bank} or less"
        )
    from otherview.evaluation.features import Asked
    from otherview.evaluation.frozen import Seen, judge, subjects_of
    from otherview.evaluation.knn import accuracy
    from otherview.training.console import RunProgress

    device = compute_on(request)
    judged = load_subject(weights).to(device)
    judged.check_block(request.block)
    sides = read_contents(sides, workers=request.workers, allow_shared=request.allow_shared)
    images = sum(len(side.indices) for side in sides)
    seen = Seen(judged.look, Asked(block=request.block), cache_of(request), request.workers)
    with RunProgress(total=images, title="features", speak=launched_rank() == 0) as progress:
        predicted, truth = judge(subjects_of(judged, images=images), sides, seen, protocol, advance=progress.advance)
    if request.confusion and launched_rank() == 0:
        from otherview.evaluation.tables import write_confusion

        first = next(iter(predicted.values()))
        write_confusion(request.confusion, truth.numpy(), first.numpy(), names=sides[0].names)
    found: dict[str, list[Score]] = {"encoder": []}
    for kind, guesses in predicted.items():
        score = accuracy_score(f"{protocol.name}_{kind}", accuracy(guesses, truth), len(truth))
        found.setdefault(kind.split("_")[0], []).append(score)
    about = {
        "train": request.train, "test": request.test, "train_images": len(sides[0].indices), **protocol.settings,
    }  # fmt: skip
    return finish(request, found, known=judged.about, about=about, began=began)


show = show_scores
