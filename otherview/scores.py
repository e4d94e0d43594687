"""Scores: a number with its unit, its n and its spread, and one JSON line per evaluation. Torch-free.

A score keeps the answers that it was computed from, so that two can be compared on the same images.

Axes: N test images, R draws of training images.
"""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from otherview.files import json_lines
from otherview.judgement import Comparison, Judgement, apart, mcnemar


class Answers(Protocol):
    """What a score was computed from."""

    def beside(self, other: Any) -> tuple[float, float | None] | None:
        """The standard error of the difference of two scores, and the chance of such a difference between equals where an exact
        test gives it; None where the images are not the same."""


class PerImage(NamedTuple):
    """A score in [0, 1] for every test image: [N], or [R, N] where training images were drawn several times."""

    values: np.ndarray

    def beside(self, other: "PerImage") -> tuple[float, float | None] | None:
        """Paired over images, and over draws; of single right and wrong answers by McNemar's test."""
        if self.values.shape != other.values.shape:
            return None
        difference = np.atleast_2d(self.values.astype(float) - other.values.astype(float))
        error = _error_of_mean(difference)
        if len(difference) > 1:
            return error, None
        if not np.isin((self.values, other.values), (0, 1)).all():
            return error, None
        return error, mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))


def _error_of_mean(values: np.ndarray) -> float:
    """Standard error over images and over draws: [R, N]."""
    draws, n = values.shape
    error = float(values.mean(axis=0).std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return error if draws == 1 else math.hypot(error, float(values.mean(axis=1).std(ddof=1)) / math.sqrt(draws))


class Score(NamedTuple):
    """Accuracies are fractions in [0, 1]; `spread` is the standard error of the mean over the n test images."""

    name: str
    value: float
    unit: str
    n: int
    spread: float
    interval: tuple[float, float] | None = None
    """Holds the true value with 95 %, where there is a rule for it."""
    answers: Answers | None = None
    """Not written."""

    def as_json(self) -> dict[str, Any]:
        """Without the interval where there is none."""
        return {name: value for name, value in self._asdict().items() if value is not None and name != "answers"}

    def beside(self, other: "Score", reference: str) -> Comparison:
        """How far it is above another score, paired where the images are the same."""
        found = self.answers.beside(other.answers) if self.answers is not None and other.answers is not None else None
        if found is None:
            return apart(reference, self.value, self.spread, other.value, other.spread, n=self.n)
        return Comparison(reference, other.value, self.value - other.value, found[0], self.n, other.spread, found[1])


def wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    from scipy.stats import binomtest

    found = binomtest(round(value * n), n).proportion_ci(0.95, method="wilson")
    return round(float(found.low), 6), round(float(found.high), 6)


class Scores(NamedTuple):
    """An evaluation: the encoder's scores and those of its controls."""

    scores: Sequence[Score]
    control: Sequence[Score]
    seconds: float
    about: dict[str, Any]
    """What was judged, on what, how: weights, data, config hash, device, seed, settings."""
    conclusion: Judgement | None = None
    comparisons: Sequence[Comparison] = ()
    """Of the score that was concluded about, with its references."""
    concluded: str = ""
    """The name of that score."""

    def as_json(self) -> dict[str, Any]:
        """One object, as `--json` prints it."""
        return {
            "scores": [score.as_json() for score in self.scores],
            "control": [score.as_json() for score in self.control],
            "seconds": round(self.seconds, 1),
            **self.about,
            **({"conclusion": {"score": self.concluded, **self.conclusion.as_json()}} if self.conclusion else {}),
            **({"comparisons": [one.as_json() for one in self.comparisons]} if self.comparisons else {}),
        }


def accuracy_score(name: str, right: Sequence[bool] | np.ndarray) -> Score:
    """The share of right answers over N images with its binomial standard error and Wilson's interval."""
    answers = np.asarray(right, dtype=bool)
    value, n = float(answers.mean()), len(answers)
    return Score(name, value, "accuracy", n, math.sqrt(value * (1 - value) / n), wilson(value, n), PerImage(answers))


def drawn_score(name: str, right: Sequence[np.ndarray]) -> Score:
    """The mean accuracy over draws [R, N] with their standard deviation; of a single draw, its binomial standard error."""
    answers = np.stack(right).astype(bool)
    values, n = answers.mean(axis=1).tolist(), answers.shape[1]
    mean = statistics.fmean(values)
    if len(values) == 1:
        return accuracy_score(name, answers[0])
    error = 1.96 * _error_of_mean(answers.astype(float))
    interval = round(max(0.0, mean - error), 6), round(min(1.0, mean + error), 6)
    return Score(name, mean, "accuracy", n, statistics.stdev(values), interval, PerImage(answers))


def append_result(folder: Path, scores: Scores) -> None:
    """Add one line to the folder's results.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(scores.as_json()) + "\n")


def results_of_run(folder: Path) -> list[dict[str, Any]]:
    """What was found of a finished run's own encoder; other weights may have been judged with --out here."""
    summary = folder / "summary.json"
    if not summary.exists():
        return []
    ended = json.loads(summary.read_text(encoding="utf-8"))
    return [
        line
        for line in json_lines(folder / "results.jsonl")
        if Path(line.get("weights", "")).suffix != ".safetensors"  # its target is another encoder
        and all(line.get(name) == ended.get(name) for name in ("config_hash", "steps"))
    ]
