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
from otherview.evaluation.scores import Scores, accuracy_score, append_result
from otherview.verbs.request import Computing, resolve_device, set_threads, shortened
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Classify, Side


SHORTENED_IMAGES = 200
"""Images per side where a shortened run is asked for."""


@dataclass(kw_only=True)
class Options(Computing):
    """What every evaluation of frozen features may be told."""

    out: Path | None = None
    """Folder whose results.jsonl gets a line; default: the run folder, where --weights is one."""
    train_images: int | None = None
    """Use only so many training images, spread evenly; default: all."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    workers: int = 1
    """Processes that read images."""


@dataclass(kw_only=True)
class Evaluate(Options):
    """Flags of every evaluation of frozen features."""

    weights: str
    """A run folder, an encoder file, or random:RECIPE for the untrained control."""
    train: str
    """Labelled images to learn from (a data SPEC)."""
    test: str
    """Labelled images to be judged on (a data SPEC)."""


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
    flags = {name: value for name, value in vars(request).items() if name not in ("weights", "json", "debug")}
    return (knn if isinstance(request, Knn) else linear)(request.weights, **flags).as_json()


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
    sides = _sides(train, test, options)
    if k > (bank := len(sides[0].indices)):
        raise WrongRequest(f"--k {k} is larger than the {bank} training images: use --k {bank} or less")
    protocol = Protocol("knn", {"k": k, "temperature": temperature}, classify)
    return evaluate(weights, train, test, sides=sides, protocol=protocol, options=Options(**options))


def linear(weights: str | Path, *, train: str, test: str, strength: float = 1e-4, **options: Any) -> Scores:
    """Logistic regression on the mean and cls token; further options are the fields of Options."""

    def classify(features: Any, labels: Any, queries: Any) -> Any:
        from otherview.evaluation.logistic import fit_logistic

        return fit_logistic(features, labels, strength=strength).predict(queries)

    check_weights(weights)
    sides = _sides(train, test, options)
    protocol = Protocol("linear", {"strength": strength}, classify)
    return evaluate(weights, train, test, sides=sides, protocol=protocol, options=Options(**options))


def evaluate(
    weights: str | Path, train: str, test: str, *, sides: "tuple[Side, Side]", protocol: Protocol, options: Options
) -> Scores:
    """Judge an encoder by a protocol next to its controls; writes one line of results.jsonl."""
    began = time.monotonic()
    from otherview.evaluation.frozen import judge
    from otherview.nn.encoder import Encoder
    from otherview.training.console import RunProgress
    from otherview.verbs.weights import load_encoder

    set_threads(options.threads)
    device = resolve_device(options.device)
    subject = load_encoder(weights).to(device)
    card = subject.card
    control = Encoder(card.encoder, seed=card.seed).to(device)
    with RunProgress(total=sum(len(side.indices) for side in sides), title="features") as progress:
        found, n = judge(
            subject.encoder,
            control,
            sides=sides,
            look=card.look,
            classify=protocol.classify,
            workers=options.workers,
            advance=progress.advance,
        )
    named = {kind: accuracy_score(f"{protocol.name}_{kind}", value, n) for kind, value in found.items()}
    scores = Scores(
        scores=[score for kind, score in named.items() if kind.startswith("encoder")],
        control=[score for kind, score in named.items() if not kind.startswith("encoder")],
        seconds=time.monotonic() - began,
        about={
            "weights": str(weights), "train": train, "test": test, "train_images": len(sides[0].indices), **protocol.settings,
            "recipe": card.recipe, "config_hash": card.config_hash, "seed": card.seed, "steps": card.steps, "device": str(device),
        },
    )  # fmt: skip
    folder = options.out or (Path(weights) if Path(weights).is_dir() else None)
    if folder is not None:
        append_result(folder, scores)
    return scores


def _sides(train: str, test: str, options: dict[str, Any]) -> "tuple[Side, Side]":
    """Both sides with labels in the numbers of the training images."""
    from otherview.data.source import labels_of, same_numbers
    from otherview.data.spec import open_source

    sources = open_source(train), open_source(test)
    labels = [labels_of(source, spec) for source, spec in zip(sources, (train, test), strict=True)]
    labels[1] = same_numbers(labels[1], of=sources[1], like=sources[0])
    import torch

    from otherview.evaluation.features import first_of
    from otherview.evaluation.frozen import Side

    sides = []
    for source, known, name in zip(sources, labels, ("train_images", "test_images"), strict=True):
        count = options.get(name)
        indices = first_of(source, min(count or SHORTENED_IMAGES, SHORTENED_IMAGES) if shortened() else count)
        sides.append(Side(source, indices, torch.from_numpy(known[indices])))
    return sides[0], sides[1]


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)


def show_scores(result: dict[str, Any]) -> list[str]:
    """Scores and controls, one a line."""
    rows = [*result["scores"], *result["control"]]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}  {row['value']:.4f} ± {row['spread']:.4f}  (n = {row['n']})" for row in rows]
    learned = [f"{result['train_images']:,} training images"] if "train_images" in result else []
    return [*lines, " · ".join([*learned, f"{result['seconds']:.0f} s", f"config {result['config_hash']}"])]
