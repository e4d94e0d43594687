"""What an evaluation returns: scores beside their controls, a conclusion, what was taken for what, one line of results.jsonl.

Axes: K classes.
"""

import csv
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from otherview.config import token_of
from otherview.errors import WrongRequest
from otherview.evaluation.class_report import ClassReport, write_rows
from otherview.evaluation.settings import JudgeSettings
from otherview.judgement import CHANCE, FROZEN, PIXELS, START, UNTRAINED, Comparison, Judgement, apart, conclude
from otherview.launch import launched_rank
from otherview.report.run_page import refresh_page
from otherview.scores import Score, Scores, append_result
from otherview.training.device import resolve_device
from otherview.weights.names import folder_of


def confusion(truth: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """Images by true class (rows) and predicted class (columns): int [K, K]."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def write_confusion(path: Path, truth: np.ndarray, predicted: np.ndarray, *, names: Sequence[str]) -> None:
    """A line per class: its name, how many images, their accuracy, and how many were taken for each class."""
    counts = confusion(truth, predicted, classes=len(names))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "n", "accuracy", *names])
        for kind, (name, row) in enumerate(zip(names, counts.tolist(), strict=True)):
            total = sum(row)
            writer.writerow([name, total, f"{row[kind] / total:.6f}" if total else "", *row])


NAMED = (
    "protocol", "block", "train_images", "test_images", "k", "temperature", "strength", "crop_pct", "draws", "seed", "epochs",
    "batch", "rate", "fit", "size",
)  # fmt: skip
"""Settings that stand in the names of scores where they are not the defaults, so that one name is one protocol."""


def finish(
    settings: JudgeSettings,
    found: Mapping[str, Sequence[Score]],
    *,
    known: Mapping[str, Any],
    about: Mapping[str, Any],
    began: float,
    chance: float | None = None,
    report: ClassReport | None = None,
) -> Scores:
    """The result with what it is about; rank 0 adds one line to results.jsonl, where there is a folder for it.

    `found` has the scores of "encoder" and, after it, of its controls; `known` is what the weights say of themselves;
    `chance` is the accuracy of who always names the most frequent class. A report of the classes is written beside the results.
    """
    unusual = _unusual(settings)
    found = {name: [score._replace(name=score.name + unusual) for score in scores] for name, scores in found.items()}
    named = {name: getattr(settings, name) for name in ("allow_shared", "block") if getattr(settings, name, None)}
    protocol = {"weights": str(settings.weights), **about, **named, "device": str(resolve_device(settings.device))}
    control = [score for name, scores in found.items() if name != "encoder" for score in scores]
    token = token_of(known.get("method"))
    score = score_of_token(found["encoder"], token)
    conclusion, comparisons = concluded(found, token=token, chance=chance)
    protocol |= {**known, **({} if chance is None else {"chance": chance}), **(report.as_json() if report else {})}
    seconds = time.monotonic() - began
    result = Scores(found["encoder"], control, seconds, protocol, conclusion, comparisons, score.name)
    folder = settings.out or folder_of(settings.weights)
    if folder is not None and launched_rank() == 0:
        append_result(folder, result)
        if report is not None:
            write_rows(folder / f"{score.name.split('_encoder')[0]}_classes.csv", report.rows)
        refresh_page(folder)
    return result


REFERENCES = {"start": START, "frozen": FROZEN, "untrained": UNTRAINED, "pixels": PIXELS}
"""What stands beside an encoder, by the word in the names of its scores."""


def chance_of(truth: Tensor) -> float:
    """The accuracy of who always names the most frequent class."""
    return float(torch.bincount(truth).max()) / len(truth)


OTHER_TOKENS = {"mean": "cls", "cls": "mean"}


def concluded(
    found: Mapping[str, Sequence[Score]], *, token: Literal["mean", "cls"] = "mean", chance: float | None = None
) -> tuple[Judgement, list[Comparison]]:
    """What the scores say of the encoder by its method's token, beside every reference; `found` is as `finish` takes it."""
    mine = found["encoder"]
    score = score_of_token(mine, token)
    comparisons = _compared(score, found)
    if chance is not None and chance < 1:
        by_chance = apart(CHANCE, score.value, math.sqrt(chance * (1 - chance) / score.n), chance, 0.0, n=score.n)
        comparisons += [] if by_chance.counts and by_chance.difference > 0 else [by_chance]
    judgement = conclude(
        score.name.replace("_encoder", "").replace("_", " "), score.value, score.spread, score.n, comparisons
    )
    other = next((one for one in mine if f"encoder_{OTHER_TOKENS[token]}" in one.name), None)
    if other is None:
        return judgement, comparisons
    worse = [one for one in _compared(other, found) if one.counts and one.difference < 0 and one.reference != PIXELS]
    more = "".join(f"; its {OTHER_TOKENS[token]} token ({other.value:.3f}) is {one}" for one in worse)
    return judgement._replace(evidence=judgement.evidence + more), comparisons


def score_of_token(scores: Sequence[Score], token: str) -> Score:
    """The first score by the method's token; the first one where scores have no tokens."""
    return next((one for one in scores if f"encoder_{token}" in one.name), scores[0])


def _compared(score: Score, found: Mapping[str, Sequence[Score]]) -> list[Comparison]:
    """With the score of the same protocol that each reference has."""
    comparisons = []
    for control, reference in REFERENCES.items():
        wanted = score.name.replace("encoder", control, 1)
        names = {wanted, re.sub("_(mean|cls)", "", wanted, count=1)}  # pixels have no tokens
        if (other := next((one for one in found.get(control, ()) if one.name in names), None)) is not None:
            comparisons.append(score.beside(other, reference))
    return comparisons


def _unusual(settings: JudgeSettings) -> str:
    """Words for what a protocol has otherwise than by default."""
    words: list[str] = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in NAMED and value not in (None, field.default):
            values = value if isinstance(value, tuple) else (value,)
            if len(values) == 1 or field.name == "size":  # scores of several values are named by each
                said = "×".join(_word(one) for one in values)
                words.append(f"{field.name.replace('_', ' ')} {said}")
    return f" ({', '.join(words)})" if words else ""


def _word(value: float | int | str) -> str:
    return value if isinstance(value, str) else f"{value:{',' if isinstance(value, int) else 'g'}}"


def check_crop_pct(crop_pct: float) -> None:
    """Raise WrongRequest for what is no share of an image's side."""
    if not 0 < crop_pct <= 1:
        raise WrongRequest(f"--crop-pct {crop_pct:g} must be above 0 and up to 1")


def fit_folder(settings: JudgeSettings, name: str) -> Path:
    """Where the checkpoints of a fit are kept; raises WrongRequest where there is no place for them."""
    folder = settings.out or folder_of(settings.weights)
    if folder is None:
        raise WrongRequest(f"--weights {settings.weights} is no run folder: give --out DIR, where checkpoints are kept")
    return folder / name
