"""Several runs in one table: mean and spread over seeds, images, compute and time; and studies that make those runs."""

import csv
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from otherview.bench.contenders import flops_per_image
from otherview.data.source import labels_of
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.files import check_picture, check_written
from otherview.recipes.studies import STUDIES, find_study
from otherview.report.comparison import Row, cells_of, compare_runs, markdown, notes, table
from otherview.report.comparison_page import draw_comparison, verdict_of, write_comparison_page
from otherview.runs.settings import STUDIED, CompareSettings
from otherview.runs.study import Plan, run_study
from otherview.signature import takes
from otherview.training.device import check_threads, resolve_device
from otherview.weights.names import REFERENCE, resolved


@takes(CompareSettings)
def compare(settings: CompareSettings) -> dict[str, Any]:
    """A table of runs, mean and spread over seeds; with a study, its runs are made first."""
    if settings.study == "list":
        return {"studies": {study.name: {"question": study.question, "rows": list(study.rows())} for study in STUDIES}}
    if settings.curves:
        check_picture(settings.curves, flag="--curves")
    if settings.report:
        if settings.report.suffix != ".html":
            raise WrongRequest(f"--report {settings.report} must end in .html")
        check_written(settings.report, flag="--report")
    if settings.csv:
        check_written(settings.csv, flag="--csv")
    if settings.study and settings.folders:
        raise WrongRequest("--study makes its own runs: give either folders or --study")
    for field in dataclasses.fields(settings):
        if not settings.study and field.name in STUDIED and getattr(settings, field.name) != field.default:
            raise WrongRequest(f"--{field.name.replace('_', '-')} is for --study, and there is none: leave it out")
    folders = (
        _studied(settings) if settings.study else {resolved(folder): _shipped(folder) for folder in settings.folders}
    )
    if not folders:
        raise WrongRequest("nothing to compare: give run folders, or --study NAME (--study list lists them)")

    rows = compare_runs(list(folders), {folder: name for folder, name in folders.items() if name})

    gflops = {row.name: flops_per_image(row.runs[0].config) / 1e9 for row in rows}
    lines = table(rows, gflops)
    if settings.csv:
        _write_csv(settings.csv, lines)
    if settings.report:
        write_comparison_page(settings.report, rows, gflops, command=_command(settings))
    if settings.curves:
        draw_comparison(rows, gflops).savefig(settings.curves, dpi=150)
    found = [_as_json(row, gflops[row.name]) for row in rows]
    verdict, cells = verdict_of(rows), cells_of(rows, gflops)
    return {
        "rows": found, "table": cells, "markdown": markdown(cells), "notes": notes(rows), "verdict": str(verdict),
        "judgement": verdict.as_json(), "as_markdown": settings.markdown,
    }  # fmt: skip


def _shipped(folder: Path) -> str | None:
    """The name of a row that is no run of the user's."""
    return str(folder) if str(folder).startswith(REFERENCE) else None


def _command(settings: CompareSettings) -> str:
    """The command that makes this comparison again: what differs from the defaults, but for what it writes and prints."""
    words = ["otherview", "compare", *map(str, settings.folders)]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in ("folders", "csv", "report", "curves", "markdown") or value == field.default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words.extend(map(str, value) if isinstance(value, tuple) else [str(value)])
    return shlex.join(words)


def _studied(settings: CompareSettings) -> dict[Path, str]:
    study = find_study(settings.study or "")
    if not (settings.data and settings.test and settings.out):
        raise WrongRequest(
            "--study needs --data SPEC, --test SPEC and --out DIR: images with labels, and where to keep runs"
        )
    for name, value in (("--at-once", settings.at_once), ("--steps", settings.steps)):
        if value is not None and value < 1:
            raise WrongRequest(f"{name} {value} is too few: give 1 or more")
    seeds = settings.seeds or study.seeds
    if len(set(seeds)) < len(seeds):
        raise WrongRequest(f"--seeds {' '.join(map(str, seeds))} has one twice: give each once")
    check_threads(settings.threads)
    resolve_device(settings.device)

    for spec in (settings.data, settings.test):
        labels_of(open_source(spec), spec)
    plan = Plan(
        data=settings.data, test=settings.test, out=settings.out, rows=settings.rows, seeds=seeds,
        equal=settings.equal, steps=settings.steps, size=settings.size, measures=settings.measures,
        allow_shared=settings.allow_shared,
        at_once=settings.at_once, threads=settings.threads, device=settings.device,
    )  # fmt: skip
    return run_study(study, plan)


def _write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]) if lines else ["row"])
        writer.writeheader()
        writer.writerows(lines)


def _as_json(row: Row, gflops: float) -> dict[str, Any]:
    return {
        "name": row.name,
        "seeds": [run.config.seed for run in row.runs],
        "images": row.runs[0].images,
        "gflops_per_image": gflops,
        "scores": {
            score: {"mean": row.mean(score), "spread": row.spread(score), "n": row.runs[0].n[score]}
            for score in row.scores
        },
    }
