"""One page over several runs: the table with its spreads, and kNN against images, compute and time.

Lines of a figure differ by their stroke and marks, so that they can be told apart without colour.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from otherview.judgement import ALONE, Judgement, apart, points
from otherview.report.comparison import COST, Finished, Row, cells_of, notes
from otherview.report.page import Chart, Section, Table, write_page

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COUNTED = "Images and compute of one seed, minutes as the mean over seeds."
STROKES, MARKS = ("-", "--", ":", "-."), "osD^vPX*"


def draw_growth(axes_of: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Seconds and memory of a step against batch, tokens and width, on logarithmic axes; dotted: in proportion."""
    figure, rows = plt.subplots(2, len(axes_of), figsize=(3.2 * len(axes_of), 5), squeeze=False, layout="constrained")
    for column, (name, measured) in enumerate(axes_of.items()):
        x = np.array([point[name] for point in measured])
        for axes, quantity in zip(rows[:, column], ("seconds", "mb"), strict=True):
            first = measured[0][f"ours_{quantity}"]
            for who, style, mark in (("ours", "-", "o"), ("reference", "--", "s")):
                y = [point[f"{who}_{quantity}"] for point in measured]
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
    """Online kNN (mean token) of every row against images, compute and time; faint: single seeds, strong: their mean.

    A line of panels for every set of test images.
    """
    groups = watched_alike(rows) or {"": rows}
    figure, lines = plt.subplots(
        len(groups), 3, figsize=(11, 3.6 * len(groups)), sharey="row", squeeze=False, layout="constrained"
    )
    for panels, (where, some) in zip(lines, groups.items(), strict=True):
        for axes, (unit, whole) in zip(panels, units(gflops).items(), strict=True):
            for row in some:
                _draw_row(axes, row, whole, which=[one.name for one in rows].index(row.name))
            axes.set_xlabel(unit, fontsize=9)
            axes.tick_params(labelsize=8)
        panels[0].set_ylabel("online kNN, mean token (MoCo-v3: cls)", fontsize=9)
        panels[0].legend(fontsize=8)
        panels[0].set_title(f"judged on {where}" if where else "", fontsize=9, loc="left")
    return figure


def _draw_row(axes: Axes, row: Row, whole: "Whole", *, which: int) -> None:
    style = {"linestyle": STROKES[which % 4], "marker": MARKS[which % 8], "markersize": 4, "color": f"C{which}"}
    for x, y in curves_of(row, whole):
        axes.plot(x, y, alpha=0.3, **style)
    if mean := mean_curve(row, whole):
        axes.plot(*mean, label=row.name, **style)


def watched_alike(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows with curves by the images that their online kNN was judged on; a row whose runs differ stands in each."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for where in dict.fromkeys(run.watched for run in row.runs if run.curve):
            alike = row._replace(runs=[run for run in row.runs if run.watched == where])
            found.setdefault(where, []).append(row if len(alike.runs) == len(row.runs) else alike)
    return found


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
    cells = cells_of(rows, gflops)
    text = (
        "Mean ± standard deviation over seeds; of a single seed, what its evaluation gave over test images or draws. "
        "A click on a head sorts."
    )
    text = " ".join([text, *(f"{said}." for said in notes(rows))])
    groups = watched_alike(rows)
    charts = [
        _chart(some, unit, whole, where=where)
        for where, some in groups.items()
        for unit, whole in units(gflops).items()
    ]
    data = sorted({run.data for row in rows for run in row.runs})
    write_page(
        path,
        title="Comparison",
        verdict=[str(verdict_of(rows))],
        facts=[("rows", str(len(rows))), ("runs", str(sum(len(row.runs) for row in rows))), ("data", ", ".join(data))],
        command=command,
        sections=[
            Section("How good is it?", [_table("Scores.", text, cells, slice(COST.stop, None))]),
            Section("How soon?", [chart for chart in charts if chart.series]),
            Section("What it cost", [_table("Cost.", COUNTED, cells, COST)]),
        ],
    )


def _table(title: str, text: str, cells: Sequence[Sequence[str]], columns: slice) -> Table:
    """Some columns beside names and seeds, so that a screen has room for them; rows without any are left out."""
    head, *lines = ([*line[:2], *line[columns]] for line in cells)
    return Table(title, text, ["row", *head[1:]], [line for line in lines if any(line[2:])])


def verdict_of(rows: Sequence[Row]) -> Judgement:
    """Which row leads in the first score that all have, each by its own feature, and by how much against its spread."""
    if len(rows) < 2:
        return Judgement(
            ALONE, f"{len(rows)} row{'s' if len(rows) != 1 else ''}", "Give the folders of two runs or more"
        )
    shared = [score for score in rows[0].scores if all(score in row.scores for row in rows)]
    if not shared:
        had = "; ".join(f"{row.name}: {', '.join(list(row.scores)[:2]) or 'no evaluation'}" for row in rows)
        return Judgement(
            "cannot be compared", f"no score is of the same protocol and the same test images in all rows ({had})",
            "Judge all of them alike: `otherview evaluate knn --weights RUN --train SPEC --test SPEC`",
        )  # fmt: skip
    score = shared[0]
    first, second = sorted(rows, key=lambda row: row.mean(row.own(score)), reverse=True)[:2]
    best, next_best = first.mean(first.own(score)), second.mean(second.own(score))
    doubts = first.doubt(first.own(score)), second.doubt(second.own(score))
    n = first.runs[0].n[first.own(score)]
    found = apart(second.name, best, doubts[0], next_best, doubts[1], n=n)
    names = " and ".join(dict.fromkeys(row.own(score) for row in (first, second)))
    evidence = (
        f"{names} {best:.3f}, {points(best - next_best)} above {second.name} {next_best:.3f} (spread {max(doubts):.3f})"
    )
    if found.counts:
        return Judgement(f"{first.name} leads", evidence)
    return Judgement("level", f"{first.name}: {evidence}, which may be luck", "Run more seeds")


def _chart(rows: Sequence[Row], unit: str, whole: Whole, *, where: str) -> Chart:
    series = {row.name: list(zip(*mean, strict=True)) for row in rows if (mean := mean_curve(row, whole))}
    text = f"Online kNN of the mean token (MoCo-v3: cls), the mean over seeds, judged on {where}."
    return Chart(f"Against {unit}.", text, unit, series)
