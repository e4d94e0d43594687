"""Speed and memory against a reference, ratios in one run: the three benches as functions."""

from pathlib import Path
from typing import Any

from otherview.bench.contenders import vit_s16
from otherview.bench.growth import bench_growth, count_measurements
from otherview.bench.loader import ROUNDS as LOADER_ROUNDS
from otherview.bench.loader import Photos, bench_loader
from otherview.bench.loss import SIZES, bench_loss
from otherview.bench.operations import compare_operations
from otherview.bench.settings import LoaderSettings, LossSettings, StepSettings
from otherview.bench.step import ROUNDS, bench_step
from otherview.data.source import Source
from otherview.data.spec import open_source
from otherview.files import check_picture
from otherview.launch import shortened
from otherview.report.comparison_page import draw_growth
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import set_threads


@takes(LoaderSettings)
def loader(settings: LoaderSettings) -> dict[str, Any]:
    """Images per second and core of the input path, of the reference and of decoding alone."""
    source = open_source(settings.data) if settings.data else Photos()
    rounds = 1 if shortened() else LOADER_ROUNDS
    with RunProgress(total=rounds, title="rounds") as progress:
        rates = bench_loader(source, rounds=rounds, advance=lambda: progress.advance(1))
    operations = {"operations": _operations(source, settings.operations)} if settings.operations > 0 else {}
    return {**rates, **operations}


@takes(StepSettings)
def step(settings: StepSettings) -> dict[str, Any]:
    """Images per second of a training step, of the naive twin, and the share of the measured peak."""
    set_threads(settings.threads)
    if settings.growth:
        check_picture(settings.growth, flag="--growth")
    with RunProgress(total=ROUNDS + 1, title="rounds") as progress:
        found = bench_step(vit_s16(), batch=settings.batch, advance=lambda: progress.advance(1))
    return {**found, **({"growth": _growth(settings.growth)} if settings.growth else {})}


@takes(LossSettings)
def loss(settings: LossSettings) -> dict[str, Any]:
    """Peak memory and time of UniGrad at several sizes."""
    with RunProgress(total=len(SIZES), title="sizes") as progress:
        return bench_loss(threads=settings.threads, advance=lambda: progress.advance(1))


def _growth(path: Path) -> dict[str, Any]:
    with RunProgress(total=count_measurements(), title="sizes") as progress:
        found = bench_growth(advance=lambda: progress.advance(1))
    draw_growth(found["axes"]).savefig(path, dpi=150)
    return {"figure": str(path), **found}


def _operations(source: Source, count: int) -> dict[str, Any]:
    with RunProgress(total=count, title="images") as progress:
        return compare_operations(source, count=count, advance=progress.advance)
