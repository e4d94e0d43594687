"""A fine-tuned classifier on images it was not made for: corrupted ones, ImageNet-A, -R, -Sketch and -C (specification 2)."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otherview.data.first_images import settled
from otherview.data.image import Preprocessing
from otherview.data.source import first_of, labels_of, same_numbers
from otherview.data.spec import open_aloud
from otherview.errors import WrongRequest
from otherview.evaluation.corruptions import (
    ALEXNET,
    CORRUPTIONS,
    SEVERITIES,
    Corrupted,
    check_corruptions,
    errors_of,
    mce_score,
    places_of,
    scores_of,
    subset_classes,
)
from otherview.evaluation.features import extract_all
from otherview.evaluation.result import check_crop_pct, finish
from otherview.evaluation.settings import RobustnessSettings
from otherview.evaluation.split import Split, images_used
from otherview.evaluation.whole_images import as_asked
from otherview.launch import launched_rank
from otherview.scores import Scores, accuracy_score
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on
from otherview.weights.names import known_of, named
from otherview.weights.pretrained import Classifier, load_classifier

SHORTENED_IMAGES = 6
"""Each is judged 76 times, so a shortened run takes fewer than other protocols do."""


@takes(RobustnessSettings)
def robustness(settings: RobustnessSettings) -> Scores:
    """Accuracies of a classifier on clean, corrupted or foreign images, next to its controls' where there are such."""
    began = time.monotonic()
    names = _corruptions(settings)

    judged = _classifiers(settings, compute_on(settings))
    card = judged["encoder"].card
    seen = as_asked(card.preprocessing, settings, patch_size=card.encoder.patch_size)
    if settings.crop_pct is not None:
        seen = seen._replace(crop_pct=settings.crop_pct)
    if names and settings.published is None:
        check_corruptions(seen.size, card.encoder.channels)
    clean, answers = _answers(judged, seen, settings, names)
    scores = {name: [accuracy_score(f"robustness_{name}_clean", right.numpy())] for name, right in clean.items()}
    for name, right in answers.items():
        scores[name] += scores_of(name, right)
    if settings.baseline:
        errors = ALEXNET if settings.baseline == "alexnet" else errors_of(answers["baseline"])
        for name, right in answers.items():
            scores[name].append(mce_score(name, right, errors))
    about = {
        "test": settings.test, "corruptions": list(names), "severities": list(settings.severities), "subset": settings.subset,
        "baseline": settings.baseline, "crop_pct": seen.crop_pct, "corruption_seed": settings.seed,
        "comparable_with_published": settings.published is not None and _whole(settings, names),
        **seen.about,
    }  # fmt: skip
    return finish(settings, scores, known=known_of(card), about=about, began=began)


def _corruptions(settings: RobustnessSettings) -> tuple[str, ...]:
    """The names that were asked for; raises WrongRequest for unknown ones and wrong severities."""
    if wrong := set(settings.severities) - set(SEVERITIES) or (not settings.severities and {"none"}):
        raise WrongRequest(f"--severities {min(wrong)} is not one of 1 2 3 4 5")
    if settings.crop_pct is not None:
        check_crop_pct(settings.crop_pct)
    if settings.baseline == "alexnet" and set(settings.severities) != set(SEVERITIES):
        raise WrongRequest("--baseline alexnet is published over severities 1 2 3 4 5: leave --severities out")
    if settings.corruptions in (("all",), ("none",)):
        return CORRUPTIONS if settings.corruptions == ("all",) else ()
    if unknown := [name for name in settings.corruptions if name not in CORRUPTIONS]:
        raise WrongRequest(f"there is no corruption {unknown[0]!r}: there are {', '.join(CORRUPTIONS)}")
    return settings.corruptions


def _whole(settings: RobustnessSettings, names: Sequence[str]) -> bool:
    """Whether all corruptions at all severities are judged, as in published results."""
    return set(names) == set(CORRUPTIONS) and set(settings.severities) == set(SEVERITIES)


def _control(path: Path, name: str) -> Path:
    """Where the classifier of a control lies, if there is one: beside a probe's, or in a folder beside."""
    if path.name.startswith("classifier-"):
        return path.with_name(path.name.replace("classifier-", f"{name}-", 1))
    return path.parent.with_name(f"finetune_{name}") / "classifier.safetensors"


def _classifiers(settings: RobustnessSettings, device: torch.device) -> dict[str, Classifier]:
    """The classifier, its controls, fine-tuned from the start weights and the untrained encoder, where they lie beside, and the
    baseline."""
    path = Path(named(settings.weights)).expanduser().absolute()
    paths = {"encoder": path / "finetune/classifier.safetensors" if path.is_dir() else path}
    if not paths["encoder"].is_file():
        raise WrongRequest(
            f"{settings.weights} holds no classifier: run `otherview evaluate finetune`, or give its classifier.safetensors"
        )
    beside = {name: _control(paths["encoder"], name) for name in ("start", "untrained")}
    paths |= {name: where for name, where in beside.items() if where.is_file()}
    if settings.baseline not in (None, "alexnet"):
        paths["baseline"] = Path(settings.baseline or "")
    found = {name: load_classifier(where) for name, where in paths.items()}
    for name, one in found.items():
        one.encoder.to(device)
        one.head.to(device)
        if one.classes != found["encoder"].classes or one.card.preprocessing != found["encoder"].card.preprocessing:
            raise WrongRequest(
                f"{paths[name]} has other classes or sizes than {paths['encoder']}: they see the same images"
            )
    return found


Right = dict[str, Tensor]
"""By classifier: which answers are right."""


def _answers(
    judged: Mapping[str, Classifier], asked: Preprocessing, settings: RobustnessSettings, names: Sequence[str]
) -> tuple[Right, dict[str, Right]]:
    """Which answers are right on the images as they are, bool [N], and by classifier and corruption, bool [N, severities]."""
    split = _open(settings.test, settings, classes=judged["encoder"].classes)
    seen = settled(split.source, asked, flag="--test", fixed=True)
    _, clean = _right(judged, split, seen, settings, title="clean")
    columns: dict[str, list[tuple[Tensor, Right]]] = {corruption: [] for corruption in names}
    for corruption, severity in ((one, two) for one in names for two in settings.severities):
        title = f"{corruption}/{severity}"
        if settings.published is None:
            alter = Corrupted(corruption, severity, settings.seed)
            column = _right(judged, split, seen, settings, title=title, alter=alter)
        else:  # cut to the size when they were made
            changed = _open(str(settings.published / title), settings, classes=judged["encoder"].classes)
            whole = settled(changed.source, asked._replace(crop_pct=1.0), flag="--test", fixed=True)
            column = _right(judged, changed, whole, settings, title=title)
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


def _open(spec: str, settings: RobustnessSettings, *, classes: Sequence[str]) -> Split:
    """Labelled images, their classes in the numbers of a classifier's."""
    source = open_aloud(spec)
    labels = labels_of(source, spec)
    names = source.classes or [str(kind) for kind in range(int(labels.max()) + 1)]
    indices = first_of(source, images_used(settings.test_images, few=SHORTENED_IMAGES))
    truth = same_numbers(labels[indices], of=names, like=classes)
    return Split(source, indices, torch.from_numpy(truth), classes)


def _right(
    judged: Mapping[str, Classifier],
    split: Split,
    preprocessing: Preprocessing,
    settings: RobustnessSettings,
    *,
    title: str,
    alter: Any = None,
) -> tuple[Tensor, Right]:
    """Which of a split's images could be read, and which answers of each classifier are right on them, altered or not."""
    with RunProgress(total=len(split.indices), title=title, speak=launched_rank() == 0) as progress:
        found = extract_all(
            {name: classifier.encoder for name, classifier in judged.items()}, split.source, preprocessing,
            indices=split.indices, workers=settings.workers, advance=progress.advance, alter=alter,
        )  # fmt: skip
    everyone = range(len(split.names))
    allowed = list(everyone if settings.subset is None else places_of(subset_classes(settings.subset), split.names))
    answers, kept = {}, torch.as_tensor(next(iter(found.values())).kept)
    for name, features in found.items():
        head = judged[name].head
        with torch.no_grad():
            scores = head(features.tokens["mean"].to(next(head.parameters()).device)).cpu()
        predicted = torch.tensor(allowed)[scores[:, allowed].argmax(dim=1)]
        answers[name] = predicted == split.labels[features.kept]
    return kept, answers
