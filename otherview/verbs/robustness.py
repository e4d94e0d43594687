"""A fine-tuned classifier on images it was not made for: corrupted ones, ImageNet-A, -R, -Sketch and -C.

otherview evaluate robustness --weights DIR --test SPEC
otherview evaluate robustness --weights DIR --test imagenet-a/ --subset imagenet-a --corruptions none
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Scores, accuracy_score
from otherview.training.launch import launched_rank
from otherview.verbs.judging import Judging, check_shown, compute_on, finish, images_used, options_of, show_scores
from otherview.verbs.weights import known_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from otherview.evaluation.frozen import Side
    from otherview.weights.classifier import Classifier

SHORTENED_IMAGES = 16
"""Each is judged 76 times, so a shortened run takes fewer than other verbs do."""


@dataclass(kw_only=True)
class Robustness(Judging):
    """Accuracy of a fine-tuned classifier on clean, corrupted or foreign images; it is not trained further.

    --weights is a run folder with a finetune/ in it, or a classifier.safetensors; a probe's is probe/classifier-RATE.safetensors.
    """

    test: str
    """Labelled images (a data SPEC); their classes are found by name."""
    corruptions: tuple[str, ...] = ("all",)
    """all fifteen, none, or some of them by name."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    published: Path | None = None
    """A folder of corrupted files instead of --test's own under corruptions: CORRUPTION/SEVERITY/CLASS/*.jpg, as ImageNet-C."""
    subset: str | None = None
    """imagenet-a or imagenet-r: the answer is the likeliest of those 200 classes."""
    baseline: str | None = None
    """mCE relative to alexnet (figures published for ImageNet-C), or to another classifier on the same images."""
    shown: float = 0.875
    """Share of the shorter side that the centre crop leaves (224 of 256); 1 for small images. Published files are taken whole."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    seed: int = 0
    """Of the corruptions."""


def run(request: Robustness) -> dict[str, Any]:
    """The verb."""
    return robustness(request.weights, **options_of(request)).as_json()


def robustness(weights: str | Path, *, test: str, **options: Any) -> Scores:
    """Accuracies of a classifier; further options are the fields of Robustness."""
    request = Robustness(weights=str(weights), test=test, **options)
    began = time.monotonic()
    names = _corruptions(request)
    from otherview.evaluation.robustness import ALEXNET, check_corruptions, errors_of, mce_score, scores_of

    judged = _classifiers(request, compute_on(request))
    card = judged["encoder"].card
    if names and request.published is None:
        check_corruptions(card.encoder.image_size, card.encoder.channels)
    clean, answers = _answers(judged, request, names)
    scores = {
        name: [accuracy_score(f"robustness_{name}_clean", float(right.double().mean()), len(right))]
        for name, right in clean.items()
    }
    for name, right in answers.items():
        scores[name] += scores_of(name, right)
    if request.baseline:
        errors = ALEXNET if request.baseline == "alexnet" else errors_of(answers["baseline"])
        for name, right in answers.items():
            scores[name].append(mce_score(name, right, errors))
    about = {
        "test": test, "corruptions": list(names), "severities": list(request.severities), "subset": request.subset,
        "baseline": request.baseline, "shown": request.shown, "corruption_seed": request.seed,
        "comparable_with_published": request.published is not None and _whole(request, names),
    }  # fmt: skip
    return finish(request, scores, known=known_of(card), about=about, began=began)


def _corruptions(request: Robustness) -> tuple[str, ...]:
    """The names that were asked for; raises WrongRequest for unknown ones and wrong severities."""
    from otherview.evaluation.robustness import CORRUPTIONS, SEVERITIES

    if wrong := set(request.severities) - set(SEVERITIES) or (not request.severities and {"none"}):
        raise WrongRequest(f"--severities {min(wrong)} is none: give some of 1 2 3 4 5")
    check_shown(request.shown)
    if request.baseline == "alexnet" and set(request.severities) != set(SEVERITIES):
        raise WrongRequest("--baseline alexnet are its mean errors over severities 1 2 3 4 5: leave --severities out")
    if request.corruptions in (("all",), ("none",)):
        return CORRUPTIONS if request.corruptions == ("all",) else ()
    if unknown := [name for name in request.corruptions if name not in CORRUPTIONS]:
        raise WrongRequest(f"no corruption is called {unknown[0]!r}: there are {', '.join(CORRUPTIONS)}")
    return request.corruptions


def _whole(request: Robustness, names: Sequence[str]) -> bool:
    """Whether all corruptions at all severities are judged, as in figures that are published."""
    from otherview.evaluation.robustness import CORRUPTIONS, SEVERITIES

    return set(names) == set(CORRUPTIONS) and set(request.severities) == set(SEVERITIES)


def _untrained(path: Path) -> Path:
    """Where the classifier of the untrained encoder lies, if there is one: beside a probe's, or in a folder beside."""
    if path.name.startswith("classifier-"):
        return path.with_name(path.name.replace("classifier-", "untrained-", 1))
    return path.parent.with_name("finetune_untrained") / "classifier.safetensors"


def _classifiers(request: Robustness, device: "torch.device") -> "dict[str, Classifier]":
    """The classifier, the one that was fine-tuned from the untrained encoder where it lies beside, and the baseline."""
    from otherview.weights.classifier import load_classifier

    path = Path(request.weights).expanduser().absolute()
    paths = {"encoder": path / "finetune/classifier.safetensors" if path.is_dir() else path}
    if not paths["encoder"].is_file():
        raise WrongRequest(
            f"{request.weights} holds no classifier: run `otherview evaluate finetune`, or give its classifier.safetensors"
        )
    beside = _untrained(paths["encoder"])
    if beside.is_file():
        paths["untrained"] = beside
    if request.baseline not in (None, "alexnet"):
        paths["baseline"] = Path(request.baseline or "")
    found = {name: load_classifier(where) for name, where in paths.items()}
    for name, one in found.items():
        one.encoder.to(device)
        one.head.to(device)
        if one.classes != found["encoder"].classes or one.card.look != found["encoder"].card.look:
            raise WrongRequest(
                f"{paths[name]} has other classes or sizes than {paths['encoder']}: they see the same images"
            )
    return found


Right = dict[str, "Tensor"]
"""By classifier: which answers are right."""


def _answers(
    judged: "Mapping[str, Classifier]", request: Robustness, names: Sequence[str]
) -> tuple[Right, dict[str, Right]]:
    """Which answers are right on the images as they are, bool [N], and by classifier and corruption, bool [N, severities]."""
    import torch

    from otherview.evaluation.robustness import Corrupted

    side = _open(request.test, request, classes=judged["encoder"].classes)
    _, clean = _right(judged, side, request, title="clean", shown=request.shown)
    columns: dict[str, list[tuple[Tensor, Right]]] = {corruption: [] for corruption in names}
    for corruption, severity in ((one, two) for one in names for two in request.severities):
        title = f"{corruption}/{severity}"
        if request.published is None:
            alter = Corrupted(corruption, severity, request.seed)
            column = _right(judged, side, request, title=title, shown=request.shown, alter=alter)
        else:  # cut to the size when they were made
            changed = _open(str(request.published / title), request, classes=judged["encoder"].classes)
            column = _right(judged, changed, request, title=title, shown=1.0)
        columns[corruption].append(column)
    places = [set(kept.tolist()) for some in columns.values() for kept, _ in some]
    common = torch.tensor(sorted(set.intersection(*places)) if places else [], dtype=torch.long)
    found = {
        name: {
            corruption: torch.stack([answers[name][torch.isin(kept, common)] for kept, answers in some], dim=1)
            for corruption, some in columns.items()
        }
        for name in judged
    }
    return clean, found if names else {}


def _open(spec: str, request: Robustness, *, classes: Sequence[str]) -> "Side":
    """Labelled images, their classes in the numbers of a classifier's."""
    import torch

    from otherview.data.source import labels_of, same_numbers
    from otherview.data.spec import open_source
    from otherview.evaluation.features import first_of
    from otherview.evaluation.frozen import Side

    source = open_source(spec)
    labels = labels_of(source, spec)
    names = source.classes or [str(kind) for kind in range(int(labels.max()) + 1)]
    indices = first_of(source, images_used(request.test_images, few=SHORTENED_IMAGES))
    truth = same_numbers(labels[indices], of=names, like=classes)
    return Side(source, indices, torch.from_numpy(truth), classes)


def _right(
    judged: "Mapping[str, Classifier]",
    side: "Side",
    request: Robustness,
    *,
    title: str,
    shown: float,
    alter: Any = None,
) -> "tuple[Tensor, Right]":
    """Which of a side's images could be read, and which answers of each classifier are right on them, altered or not."""
    import torch

    from otherview.evaluation.features import extract_all
    from otherview.evaluation.robustness import places_of, subset_classes
    from otherview.training.console import RunProgress

    look = judged["encoder"].card.look._replace(shown=shown)
    with RunProgress(total=len(side.indices), title=title, speak=launched_rank() == 0) as progress:
        found = extract_all(
            {name: classifier.encoder for name, classifier in judged.items()}, side.source, look,
            indices=side.indices, workers=request.workers, advance=progress.advance, alter=alter,
        )  # fmt: skip
    everyone = range(len(side.names))
    allowed = list(everyone if request.subset is None else places_of(subset_classes(request.subset), side.names))
    answers, kept = {}, torch.as_tensor(next(iter(found.values())).kept)
    for name, features in found.items():
        head = judged[name].head
        with torch.no_grad():
            scores = head(features.tokens["mean"].to(next(head.parameters()).device)).cpu()
        predicted = torch.tensor(allowed)[scores[:, allowed].argmax(dim=1)]
        answers[name] = predicted == side.labels[features.kept]
    return kept, answers


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    lines = show_scores(result)
    if result["corruptions"] and not result["comparable_with_published"]:
        lines.append("corruptions were made in memory: not comparable with figures on the published files")
    return lines
