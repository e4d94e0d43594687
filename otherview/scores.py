"""Scores: a number with its unit, its n and its spread, and one JSON line per evaluation. Torch-free."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otherview.files import json_lines


class Score(NamedTuple):
    """Accuracies are fractions in [0, 1]; `spread` is the standard error of the mean over the n test images."""

    name: str
    value: float
    unit: str
    n: int
    spread: float
    interval: tuple[float, float] | None = None
    """Holds the true value with 95 %, where there is a rule for it."""

    def as_json(self) -> dict[str, Any]:
        """Without the interval where there is none."""
        return {name: value for name, value in self._asdict().items() if value is not None}


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

    def as_json(self) -> dict[str, Any]:
        """One object, as `--json` prints it."""
        return {
            "scores": [score.as_json() for score in self.scores],
            "control": [score.as_json() for score in self.control],
            "seconds": round(self.seconds, 1),
            **self.about,
        }


def accuracy_score(name: str, value: float, n: int) -> Score:
    """An accuracy over n images with its binomial standard error and Wilson's interval."""
    return Score(name, value, "accuracy", n, math.sqrt(value * (1 - value) / n), wilson(value, n))


def drawn_score(name: str, values: Sequence[float], n: int) -> Score:
    """The mean accuracy over draws with their standard deviation; of a single draw, its binomial standard error."""
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else math.sqrt(mean * (1 - mean) / n)
    return Score(name, mean, "accuracy", n, spread)


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
