"""How good is an encoder: frozen features next to the untrained control and raw pixels.

otherview evaluate knn --weights DIR --train SPEC --test SPEC
otherview.evaluate.knn("runs/first", train="…", test="…")
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Scores, accuracy_score
from otherview.verbs.few_shot import few_shot
from otherview.verbs.finetune import finetune
from otherview.verbs.judging import Evaluate, finish, open_sides, options_of, show_scores
from otherview.verbs.probe import probe
from otherview.verbs.request import check_written, resolve_device, set_threads
from otherview.verbs.retrieval import retrieval
from otherview.verbs.robustness import robustness
from otherview.verbs.segment import segment
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Classify, Side

__all__ = ["few_shot", "finetune", "knn", "linear", "probe", "retrieval", "robustness", "segment"]


@dataclass(kw_only=True)
class Classified(Evaluate):
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


@dataclass(frozen=True)
class Protocol:
    """A classifier of frozen features with the name and settings that stand in the results."""

    name: str
    settings: dict[str, Any]
    classify: "Classify"


def run(request: Classified) -> dict[str, Any]:
    """The verb."""
    return (knn if isinstance(request, Knn) else linear)(request.weights, **options_of(request)).as_json()


def knn(
    weights: str | Path,
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

    check_weights(weights)
    request = Classified(weights=str(weights), train=train, test=test, **options)
    sides = open_sides(train, test, request)
    if max(ks) > (bank := len(sides[0].indices)):
        raise WrongRequest(f"--k {max(ks)} is larger than the {bank} training images: use --k {bank} or less")
    settings = {"k": ks, "temperature": temperatures} if several else {"k": ks[0], "temperature": temperatures[0]}
    return evaluate(request, sides, protocol=Protocol("knn", settings, classify))


def linear(weights: str | Path, *, train: str, test: str, strength: float = 1e-4, **options: Any) -> Scores:
    """Logistic regression on the mean and cls token; further options are the fields of Classified."""

    def classify(features: Any, labels: Any, queries: Any) -> Any:
        from otherview.evaluation.logistic import fit_logistic

        return {"": fit_logistic(features, labels, strength=strength).predict(queries)}

    check_weights(weights)
    request = Classified(weights=str(weights), train=train, test=test, **options)
    sides = open_sides(train, test, request)
    return evaluate(request, sides, protocol=Protocol("linear", {"strength": strength}, classify))


def evaluate(request: Classified, sides: "tuple[Side, Side]", *, protocol: Protocol) -> Scores:
    """Judge an encoder by a protocol next to its controls; writes one line of results.jsonl."""
    if request.confusion:
        check_written(request.confusion, flag="--confusion")
    began = time.monotonic()
    from otherview.evaluation.frozen import judge, subjects_of
    from otherview.evaluation.knn import accuracy
    from otherview.training.console import RunProgress
    from otherview.verbs.weights import load_encoder

    set_threads(request.threads)
    device = resolve_device(request.device)
    subject = load_encoder(request.weights).to(device)
    images = sum(len(side.indices) for side in sides)
    with RunProgress(total=images, title="features") as progress:
        predicted, truth = judge(
            subjects_of(subject.encoder, seed=subject.card.seed, images=images),
            sides,
            subject.card.look,
            classify=protocol.classify,
            workers=request.workers,
            advance=progress.advance,
            allow_shared=request.allow_shared,
        )
    named = {
        kind: accuracy_score(f"{protocol.name}_{kind}", accuracy(found, truth), len(truth))
        for kind, found in predicted.items()
    }
    if request.confusion:
        from otherview.evaluation.tables import write_confusion

        first = next(iter(predicted.values()))
        write_confusion(request.confusion, truth.numpy(), first.numpy(), names=sides[0].names)
    scores = [score for kind, score in named.items() if kind.startswith("encoder")]
    control = [score for kind, score in named.items() if not kind.startswith("encoder")]
    about = {
        "train": request.train, "test": request.test, "train_images": len(sides[0].indices), **protocol.settings,
    }  # fmt: skip
    return finish(request, scores, control, card=subject.card, about=about, began=began)


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)
