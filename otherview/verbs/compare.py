"""Several runs in one table: mean and spread over seeds, images, compute and time; and studies that make those runs."""

import csv
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from otherview.errors import WrongRequest
from otherview.verbs.reference import PREFIX, resolved
from otherview.verbs.request import Request, check_picture, check_threads, check_written

if TYPE_CHECKING:
    from otherview.report.comparison import Row


Measure = Literal["knn", "linear", "few-shot", "linear-segment", "retrieval", "finetune"]


@dataclass(kw_only=True)
class Compare(Request):
    """A table of finished runs; runs that differ in their seed alone are one row. With --study, make the runs first."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders, and reference:demo for a run that ships with the package."""
    study: str | None = None
    """Make the runs of a study (`otherview compare --study list` lists them); the same command continues and skips what
    is finished."""
    data: str | None = None
    """With --study: labelled images to train on, and whose features judge the test images (a data SPEC)."""
    test: str | None = None
    """With --study: labelled images to be judged on (a data SPEC)."""
    out: Path | None = None
    """With --study: folder of the runs."""
    rows: tuple[str, ...] = ()
    """With --study: only these of its rows; default: all."""
    seeds: tuple[int, ...] = ()
    """With --study: every row is run with each of them; default: 1 and 2, and 0 for what settings are looked for with."""
    equal: Literal["images", "compute"] = "images"
    """With --study: rows see equally many images, or take as many steps as the first row's FLOPs pay for."""
    steps: int | None = None
    """With --study: optimiser steps of the first row; default: the study's."""
    size: int | None = None
    """With --study: side of the images in pixels, patches growing with it so that there are as many; default: the study's."""
    measures: tuple[Measure, ...] = ("knn", "linear", "few-shot", "linear-segment", "retrieval")
    """With --study: how its runs are judged; finetune takes as long as pre-training, so that it has to be asked for."""
    allow_shared: bool = False
    """With --study: judge although --data and --test share images."""
    at_once: int = 1
    """With --study: processes at a time."""
    threads: int = 1
    """With --study: CPU threads of each."""
    csv: Path | None = None
    """Also write one line per run and score here."""
    report: Path | None = None
    """Also write one self-contained page here: *.html."""
    curves: Path | None = None
    """Also draw kNN against images, compute and time here: *.png or *.svg."""


STUDIED = (
    "data", "test", "out", "rows", "seeds", "equal", "steps", "size", "measures", "allow_shared", "at_once", "threads",
)  # fmt: skip
"""Flags that tell how a study is run."""


def run(request: Compare) -> dict[str, Any]:
    """The verb."""
    if request.study == "list":
        from otherview.recipes.studies import STUDIES

        return {"studies": {study.name: {"question": study.question, "rows": list(study.rows())} for study in STUDIES}}
    if request.curves:
        check_picture(request.curves, flag="--curves")
    if request.report:
        if request.report.suffix != ".html":
            raise WrongRequest(f"--report {request.report} must end in .html")
        check_written(request.report, flag="--report")
    if request.csv:
        check_written(request.csv, flag="--csv")
    if request.study and request.folders:
        raise WrongRequest("--study makes its own runs: give either folders or --study")
    for field in dataclasses.fields(request):
        if not request.study and field.name in STUDIED and getattr(request, field.name) != field.default:
            raise WrongRequest(f"--{field.name.replace('_', '-')} is for --study, and there is none: leave it out")
    folders = _studied(request) if request.study else {resolved(folder): _shipped(folder) for folder in request.folders}
    if not folders:
        raise WrongRequest("nothing to compare: give run folders, or --study NAME (--study list lists them)")
    from otherview.report.comparison import compare, markdown, notes, table

    rows = compare(list(folders), {folder: name for folder, name in folders.items() if name})
    from otherview.bench.flops import flops_per_image

    gflops = {row.name: flops_per_image(row.runs[0].config) / 1e9 for row in rows}
    lines = table(rows, gflops)
    if request.csv:
        _write_csv(request.csv, lines)
    if request.report:
        from otherview.report.comparison_page import write_comparison_page

        write_comparison_page(request.report, rows, gflops, command=_command(request))
    if request.curves:
        from otherview.report.curves import draw_comparison

        draw_comparison(rows, gflops).savefig(request.curves, dpi=150)
    found = [_as_json(row, gflops[row.name]) for row in rows]
    return {"rows": found, "markdown": markdown(rows, gflops), "notes": notes(rows)}


def _shipped(folder: Path) -> str | None:
    """The name of a row that is no run of the user's."""
    return str(folder) if str(folder).startswith(PREFIX) else None


def _command(request: Compare) -> str:
    """The command that makes this comparison again: what differs from the defaults, but for what it writes and prints."""
    words = ["otherview", "compare", *map(str, request.folders)]
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if field.name in ("folders", "csv", "report", "curves", "json", "debug") or value == field.default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words.extend(map(str, value) if isinstance(value, tuple) else [str(value)])
    return shlex.join(words)


def _studied(request: Compare) -> dict[Path, str]:
    from otherview.recipes.studies import find_study
    from otherview.verbs.study import Plan, run_study

    study = find_study(request.study or "")
    if not (request.data and request.test and request.out):
        raise WrongRequest(
            "--study needs --data SPEC, --test SPEC and --out DIR: images with labels, and where to keep runs"
        )
    for name, value in (("--at-once", request.at_once), ("--steps", request.steps)):
        if value is not None and value < 1:
            raise WrongRequest(f"{name} {value} is too few: give 1 or more")
    seeds = request.seeds or study.seeds
    if len(set(seeds)) < len(seeds):
        raise WrongRequest(f"--seeds {' '.join(map(str, seeds))} has one twice: give each once")
    check_threads(request.threads)
    from otherview.data.source import labels_of
    from otherview.data.spec import open_source

    for spec in (request.data, request.test):
        labels_of(open_source(spec), spec)
    plan = Plan(
        data=request.data, test=request.test, out=request.out, rows=request.rows, seeds=seeds,
        equal=request.equal, steps=request.steps, size=request.size, measures=request.measures, allow_shared=request.allow_shared,
        at_once=request.at_once, threads=request.threads,
    )  # fmt: skip
    return run_study(study, plan)


def _write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]) if lines else ["row"])
        writer.writeheader()
        writer.writerows(lines)


def _as_json(row: "Row", gflops: float) -> dict[str, Any]:
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


def show(result: dict[str, Any]) -> Sequence[str]:
    """The table as Markdown, and what is to be known of it."""
    if "studies" in result:
        return [
            f"{name}\n    {study['question']}: {', '.join(study['rows'])}" for name, study in result["studies"].items()
        ]
    return [*result["markdown"], *result["notes"]]
