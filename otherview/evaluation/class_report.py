"""Class by class: what a classifier finds of each class and what it takes for it, with intervals; and how honest its chances are.

    report = class_report(truth, predicted, names, chances=chances)
    report.rows[0]["sensitivity"], report.rows[0]["auroc"], report.calibration

Areas under curves are scikit-learn's, one class against the others; their 95 % intervals come from drawing test images anew.

Axes: N test images, K classes.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otherview.files import atomically
from otherview.scores import wilson

RESAMPLES, BINS = 200, 15
MOST_WITH_INTERVALS = 20
"""Classes; with more, areas stand without intervals, which take a while each."""
Row = Mapping[str, Any]


class ClassReport(NamedTuple):
    """A row for every class, and the expected calibration error where chances are known."""

    rows: list[dict[str, Any]]
    calibration: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What stands in the results."""
        found: dict[str, Any] = {"per_class": self.rows}
        return found if self.calibration is None else {**found, "expected_calibration_error": self.calibration}


def class_report(
    truth: np.ndarray, predicted: np.ndarray, names: Sequence[str], *, chances: np.ndarray | None = None
) -> ClassReport:
    """Sensitivity (recall), specificity, precision and, with chances [N, K], AUROC and AUPRC of every class.

    A value is None where it is undefined: of a class without test images, say.
    """
    rows = []
    for kind, name in enumerate(names):
        here, said = truth == kind, predicted == kind
        row = {
            "class": name, "n": int(here.sum()),
            **_share("sensitivity", said[here]), **_share("specificity", ~said[~here]), **_share("precision", here[said]),
        }  # fmt: skip
        if chances is not None:
            row |= _areas(here, chances[:, kind], intervals=len(names) <= MOST_WITH_INTERVALS)
        rows.append(row)
    return ClassReport(rows, None if chances is None else calibration_error(truth, chances))


def _share(name: str, right: np.ndarray) -> dict[str, Any]:
    """A share with Wilson's interval."""
    if not len(right):
        return {name: None}
    share = float(right.mean())
    return {name: round(share, 6), f"{name}_interval": wilson(share, len(right))}


def _areas(here: np.ndarray, chance: np.ndarray, *, intervals: bool) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    if here.all() or not here.any():
        return {"auroc": None, "auprc": None}
    found: dict[str, Any] = {}
    measures: dict[str, Callable[..., Any]] = {"auroc": roc_auc_score, "auprc": average_precision_score}
    for name, measure in measures.items():
        found[name] = round(float(measure(here, chance)), 6)
        if intervals:
            found[f"{name}_interval"] = _interval(here, chance, measure)
    return found


def _interval(here: np.ndarray, chance: np.ndarray, measure: Callable[..., Any]) -> tuple[float, float]:
    """95 %, from images drawn anew; draws without an image of the class, or with no other, are drawn again."""
    rng, values = np.random.default_rng(0), list[float]()
    while len(values) < RESAMPLES:
        drawn = rng.integers(len(here), size=len(here))
        if 0 < here[drawn].sum() < len(here):
            values.append(float(measure(here[drawn], chance[drawn])))
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return round(low, 6), round(high, 6)


def calibration_error(truth: np.ndarray, chances: np.ndarray) -> float:
    """Expected calibration error: how far the chance of the named class is from how often it is right, in 15 bins of chance,
    weighted by their images (C. Guo et al., arXiv 1706.04599, equation 3)."""
    chance, right = chances.max(axis=1), chances.argmax(axis=1) == truth
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = [abs(float(right[bins == one].mean() - chance[bins == one].mean())) for one in np.unique(bins)]
    return round(float(np.average(gaps, weights=np.bincount(bins)[np.unique(bins)])), 6)


def _ends(name: str) -> tuple[str, ...]:
    """The columns of a value: two of an interval."""
    bare = name.removesuffix("_interval")
    return (name,) if bare == name else (f"{bare}_low", f"{bare}_high")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A table with a line for every class; intervals as two columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = [part for name in columns for part in _ends(name)]

    def cells(row: Row) -> list[Any]:
        found: list[Any] = []
        for name in columns:
            value = row.get(name)
            found += list(value or ("", "")) if name.endswith("_interval") else ["" if value is None else value]
        return found

    def write(place: Path) -> None:
        with place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows(map(cells, rows))

    atomically(path, write)
