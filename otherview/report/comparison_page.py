"""One page over several runs: the table with its spreads, and kNN against images, compute and time.

Lines of a figure differ by their stroke and marks, so that they can be told apart without colour.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from otherview.report.comparison import Finished, Row, markdown, notes
from otherview.report.page import Chart, Section, Table, write_page

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

STROKES, MARKS = ("-", "--", ":", "-."), "osD^vPX*"


def draw_growth(axes_of: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Seconds and memory of a step against batch, tokens and width, on logarithmic axes; dotted: in proportion."""
    figure, rows = plt.subplots(2, len(axes_of), figsize=(3.2 * len(axes_of), 5), squeeze=False, layout="constrained")
    for column, (name, points) in enumerate(axes_of.items()):
        x = np.array([point[name] for point in points])
        for axes, quantity in zip(rows[:, column], ("seconds", "mb"), strict=True):
            first = points[0][f"ours_{quantity}"]
            for who, style, mark in (("ours", "-", "o"), ("reference", "--", "s")):
                y = [point[f"{who}_{quantity}"] for point in points]
                axes.loglog(x, y, linestyle=style, marker=mark, markersize=4, color="black", label=who)
            axes.loglog(x, first * x / x[0], linestyle=":", color="0.5", label="in proportion")
            axes.set_xticks(x, [str(value) for value in x], minor=False)
            axes.minorticks_off()
            axes.set_xlabel(name, fontsize=8)
            axes.set_ylabel({"seconds": "seconds a step", "mb": "MB beyond the weights"}[quantity], fontsize=8)
            axes.tick_params(labelsize=7)
    rows[0][0].legend(fontsize=7)
    return figure


def draw_comparison(rows: Sequence[Row], gflops: Mapping[str, float]) -> Figure:
    """Online kNN (mean token) of every row against images, compute and time; faint: single seeds, strong: their mean."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    for axes, (unit, whole) in zip(panels, units(gflops).items(), strict=True):
        for which, row in enumerate(rows):
            style = {"linestyle": STROKES[which % 4], "marker": MARKS[which % 8], "markersize": 4, "color": f"C{which}"}
            for x, y in curves_of(row, whole):
                axes.plot(x, y, alpha=0.3, **style)
            if mean := mean_curve(row, whole):
                axes.plot(*mean, label=row.name, **style)
        axes.set_xlabel(unit, fontsize=8)
        axes.tick_params(labelsize=7)
    panels[0].set_ylabel("online kNN, mean token (MoCo-v3: cls)", fontsize=8)
    panels[0].legend(fontsize=7)
    return figure


Curve = tuple[list[float], list[float]]
Whole = Callable[[Row, Finished], float]
"""What a whole run took, in some unit."""


def units(gflops: Mapping[str, float]) -> dict[str, Whole]:
    """What learning is drawn against."""
    return {
        "thousand images": lambda _, run: run.images / 1e3,
        "PFLOP": lambda row, run: gflops[row.name] * run.images / 1e6,
        "minutes": lambda _, run: run.seconds / 60,
    }


def curves_of(row: Row, whole: Whole) -> list[Curve]:
    """Every seed's curve: the share of its images that had been seen, times the whole; and the kNN of its feature."""
    return [
        (
            [whole(row, run) * line["step"] / run.curve[-1]["step"] for line in run.curve],
            [line[f"knn_{run.config.token}"] for line in run.curve],
        )
        for run in row.runs
        if run.curve
    ]


def mean_curve(row: Row, whole: Whole) -> Curve | None:
    """The mean over seeds, where all were looked at equally often."""
    curves = curves_of(row, whole)
    if len({len(y) for _, y in curves}) != 1:
        return None
    x, y = np.mean(curves, axis=0).tolist()
    return x, y


def write_comparison_page(path: Path, rows: Sequence[Row], gflops: Mapping[str, float], *, command: str) -> None:
    """The page of `otherview compare`; `gflops` is per image, by row name."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(rows, gflops)]
    text = (
        "Mean ± standard deviation over seeds; of a single seed, what its evaluation gave over test images or draws. "
        "A click on a head sorts."
    )
    text = " ".join([text, *(f"{said}." for said in notes(rows))])
    charts = [_chart(rows, unit, whole) for unit, whole in units(gflops).items()]
    data = sorted({run.data for row in rows for run in row.runs})
    write_page(
        path,
        title="Comparison",
        verdict=_verdict(rows),
        facts=[("rows", str(len(rows))), ("runs", str(sum(len(row.runs) for row in rows))), ("data", ", ".join(data))],
        command=command,
        sections=[
            Section("How good is it?", [Table("Scores.", text, ["row", *lines[0][1:]], lines[2:])]),
            Section("How soon?", [chart for chart in charts if chart.series]),
        ],
    )


def _verdict(rows: Sequence[Row]) -> str:
    """Which row leads in the first score that all have, each by its own feature, and by how much against its spread."""
    shared = [score for score in rows[0].scores if all(score in row.scores for row in rows)]
    if not shared or len(rows) < 2:
        return f"{len(rows)} row{'s' if len(rows) != 1 else ''}, nothing to compare"
    score = shared[0]
    first, second = sorted(rows, key=lambda row: row.mean(row.own(score)), reverse=True)[:2]
    gap = first.mean(first.own(score)) - second.mean(second.own(score))
    spread = max(row.doubt(row.own(score)) for row in (first, second))
    clear = "" if gap > 2 * spread else ": not more than chance may do"
    names = " and ".join(dict.fromkeys(row.own(score) for row in (first, second)))
    return f"{first.name} leads {second.name} by {gap:.3f} in {names} (spread {spread:.3f}){clear}"


def _chart(rows: Sequence[Row], unit: str, whole: Whole) -> Chart:
    series = {row.name: list(zip(*mean, strict=True)) for row in rows if (mean := mean_curve(row, whole))}
    return Chart(f"Against {unit}.", "Online kNN of the mean token (MoCo-v3: cls), the mean over seeds.", unit, series)
