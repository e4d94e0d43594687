"""One page over several runs: the table with its spreads, and kNN against images, compute and time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from otherview.report.comparison import Row, markdown, notes
from otherview.report.curves import Whole, mean_curve, units
from otherview.report.page import Chart, Section, Table, write_page


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
