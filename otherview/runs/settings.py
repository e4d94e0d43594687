"""The settings of what makes and compares runs: torch-free. A command's flags and its function's parameters are their fields."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from otherview.config import RunConfig
from otherview.data.settings import Levels
from otherview.training.settings import ComputeSettings, DeviceName


@dataclass(kw_only=True)
class RunRequest(ComputeSettings):
    """What every command that trains is asked for."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig, kw_only=False)
    """Every setting of the run; the values in brackets are the recipe's. Without a recipe, what is not given is chosen."""
    data: str
    """A folder, *.txt, *.csv, *.zip, *.tar, *.parquet, hf:…, coco:…, tiles:…, shapes:N and more (docs/data.md), with commas."""
    out: Path
    """The run folder."""
    fresh: bool = False
    """Start over; what is in the folder is moved aside, and the new place is printed."""
    init: str | None = None
    """Weights to start from, whose sizes are taken: a run, a file (MAE, DINO, DINOv2 …), timm:NAME or hf:ORG/NAME."""

    def __post_init__(self) -> None:
        self.out = Path(self.out)


@dataclass(kw_only=True)
class PretrainSettings(RunRequest):
    """Pre-train an encoder; run the same command again in the same folder to continue."""

    dry_run: bool = False
    """Print shapes, parameters, memory, one timed step and the cost of the run, and write nothing."""
    time_budget: str | None = None
    """Take as many steps as fit into 90s, 30m, 1.5h or 2d, measured at the start. Without a recipe: 8h on a GPU, else 1h."""
    knn_bank: str | None = None
    """Labelled images for an online kNN: the bank (5,000 of them)."""
    knn_test: str | None = None
    """Labelled images for an online kNN: the queries (2,000 of them)."""
    knn_every: int = 500
    """Steps between two looks at what has been learned: kNN or, without labelled images, patch retrieval."""


@dataclass(kw_only=True)
class PlanSettings(RunRequest):
    """What ten times the images or the time would bring: short runs on parts of your images; run it again to continue.

    Where all images have labels, kNN judges the runs, else patch retrieval.
    """

    out: Path = Path("runs/plan")
    """Folder of the runs and of plan.json."""
    time_budget: str | None = None
    """For all seven runs together: 30m, 2h or 1d. Default: 1h; with a recipe or --steps, the longest run has those steps."""
    group_by: str | None = None
    """Keep what belongs together, such as a patient's images, on one side: folder, file, or a column of the *.csv."""


@dataclass(kw_only=True)
class PredictSettings(ComputeSettings):
    """Apply what an evaluation has fitted to new images, which need no labels; run the same command again to continue.

    A classifier writes a table, a detector COCO's JSON with boxes and masks, a segmenter a picture of classes for every image.
    """

    weights: str = field(kw_only=False)
    """A run folder or --out with one fit, the folder of a fit, or its file (finetune/classifier.safetensors and the like)."""
    data: str
    """Images (a data SPEC)."""
    out: Path
    """Of a classifier *.csv or *.parquet; of a detector or a segmenter a folder."""
    pictures: int = 20
    """How many images are drawn with the boxes or pixels that were found."""
    workers: int = 1
    """Processes that read images."""


@dataclass(kw_only=True)
class DoctorSettings(ComputeSettings):
    """Decode every image once; report what is there and what is broken, and suggest a run."""

    data: str
    """Images: a data SPEC, as for pretrain."""
    out: Path = Path("doctor")
    """Folder for the list of good images (itself a SPEC), the broken ones with reasons, and a picture of views."""
    channels: int | None = None
    """Image channels; default: what the images have (arrays and TIFF; ordinary images have 3)."""
    levels: Levels = "auto"
    """What becomes black and white: auto (by kind of file), LOW HIGH, percentile P Q (per image), or the range of the type."""
    workers: int | None = None
    """Processes that decode; default: one per core."""


@dataclass(kw_only=True)
class DemoSettings(ComputeSettings):
    """Pre-train, evaluate and report on built-in images, in minutes, on a CPU, with no network."""

    out: Path = Path("runs/demo")
    """The run folder; a finished demo there is shown again, not repeated."""
    seed: int = 0
    """Seed of weights, views and order."""


Measure = Literal["knn", "linear", "few-shot", "linear-segment", "retrieval", "finetune"]


@dataclass(kw_only=True)
class CompareSettings:
    """A table of finished runs; runs that differ in their seed alone are one row. With --study, make the runs first."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = field(default=(), kw_only=False)
    """Run folders, and reference:demo for a run that ships with the package."""
    study: str | None = None
    """Make the runs of a study (`--study list` lists them); the same command continues."""
    data: str | None = None
    """With --study: labelled images to train on, and to fit the evaluations on (a data SPEC)."""
    test: str | None = None
    """With --study: labelled test images (a data SPEC)."""
    out: Path | None = None
    """With --study: folder of the runs."""
    rows: tuple[str, ...] = ()
    """With --study: only these of its rows; default: all."""
    seeds: tuple[int, ...] = ()
    """With --study: run every row with each of these seeds; default: 1 and 2 (studies called tune_…: 0)."""
    equal: Literal["images", "compute"] = "images"
    """With --study: give all rows equally many images, or as many steps as the first row's compute allows."""
    steps: int | None = None
    """With --study: optimiser steps of the first row; default: the study's."""
    size: int | None = None
    """With --study: image side in pixels; the patch size grows with it; default: the study's."""
    measures: tuple[Measure, ...] = ("knn", "linear", "few-shot", "linear-segment", "retrieval")
    """With --study: evaluations to run; finetune takes as long as pre-training, so it is off by default."""
    allow_shared: bool = False
    """With --study: judge although --data and --test share images."""
    at_once: int = 1
    """With --study: how many runs at a time."""
    threads: int = 1
    """With --study: CPU threads per run."""
    device: DeviceName = "auto"
    """With --study: where the runs are computed; auto takes a GPU where there is one."""
    markdown: bool = False
    """Print the table as Markdown, to be pasted; default: tables that fit a terminal of 100 columns."""
    csv: Path | None = None
    """Also write one line per run and score here."""
    report: Path | None = None
    """Also write one self-contained page here: *.html."""
    curves: Path | None = None
    """Also draw kNN against images, compute and time here: *.png or *.svg."""


STUDIED = (
    "data", "test", "out", "rows", "seeds", "equal", "steps", "size", "measures", "allow_shared", "at_once", "threads", "device",
)  # fmt: skip
"""Settings that tell how a study is run."""
