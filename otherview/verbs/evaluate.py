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
from otherview.verbs.judging import Evaluate, Options, finish, open_sides, options_of, show_scores
from otherview.verbs.request import resolve_device, set_threads
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Classify, Side


@dataclass(kw_only=True)
class Knn(Evaluate):
    """Weighted k-nearest neighbours: the k most similar training images vote."""

    k: int = 20
    """How many neighbours vote."""
    temperature: float = 0.07
    """A vote weighs exp(cosine similarity / temperature)."""


@dataclass(kw_only=True)
class Linear(Evaluate):
    """Logistic regression on frozen features, the quick linear measure (not the paper's 90-epoch probe)."""

    strength: float = 1e-4
    """Half of this times the squared weights is added to the mean cross-entropy; features are standardised."""


@dataclass(frozen=True)
class Protocol:
    """A classifier of frozen features with the name and settings that stand in the results."""

    name: str
    settings: dict[str, float]
    classify: "Classify"


def run(request: Evaluate) -> dict[str, Any]:
    """The verb."""
    return (knn if isinstance(request, Knn) else linear)(request.weights, **options_of(request)).as_json()


def knn(
    weights: str | Path, *, train: str, test: str, k: int = 20, temperature: float = 0.07, **options: Any
) -> Scores:
    """Weighted kNN of the mean and cls token (specification 2); further options are the fields of Options."""
    if k < 1 or temperature <= 0:
        raise WrongRequest(f"--k {k} and --temperature {temperature} must both be above 0")

    def classify(bank: Any, labels: Any, queries: Any) -> Any:
        from otherview.evaluation.knn import knn_predict

        return knn_predict(bank, labels, queries, k=k, temperature=temperature)

    check_weights(weights)
    asked = Options(**options)
    sides = open_sides(train, test, asked)
    if k > (bank := len(sides[0].indices)):
        raise WrongRequest(f"--k {k} is larger than the {bank} training images: use --k {bank} or less")
    protocol = Protocol("knn", {"k": k, "temperature": temperature}, classify)
    return evaluate(weights, train, test, sides=sides, protocol=protocol, options=asked)


def linear(weights: str | Path, *, train: str, test: str, strength: float = 1e-4, **options: Any) -> Scores:
    """Logistic regression on the mean and cls token; further options are the fields of Options."""

    def classify(features: Any, labels: Any, queries: Any) -> Any:
        from otherview.evaluation.logistic import fit_logistic

        return fit_logistic(features, labels, strength=strength).predict(queries)

    check_weights(weights)
    asked = Options(**options)
    protocol = Protocol("linear", {"strength": strength}, classify)
    return evaluate(weights, train, test, sides=open_sides(train, test, asked), protocol=protocol, options=asked)


def evaluate(
    weights: str | Path, train: str, test: str, *, sides: "tuple[Side, Side]", protocol: Protocol, options: Options
) -> Scores:
    """Judge an encoder by a protocol next to its controls; writes one line of results.jsonl."""
    began = time.monotonic()
    from otherview.evaluation.frozen import judge, subjects_of
    from otherview.training.console import RunProgress
    from otherview.verbs.weights import load_encoder

    set_threads(options.threads)
    device = resolve_device(options.device)
    subject = load_encoder(weights).to(device)
    images = sum(len(side.indices) for side in sides)
    with RunProgress(total=images, title="features") as progress:
        found, n = judge(
            subjects_of(subject.encoder, seed=subject.card.seed, images=images),
            sides,
            subject.card.look,
            classify=protocol.classify,
            workers=options.workers,
            advance=progress.advance,
        )
    named = {kind: accuracy_score(f"{protocol.name}_{kind}", value, n) for kind, value in found.items()}
    scores = [score for kind, score in named.items() if kind.startswith("encoder")]
    control = [score for kind, score in named.items() if not kind.startswith("encoder")]
    about = {
        "train": train, "test": test, "train_images": len(sides[0].indices), **protocol.settings, "device": str(device),
    }  # fmt: skip
    return finish(weights, scores, control, card=subject.card, about=about, began=began, out=options.out)


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)
