"""Speed and memory against a reference, ratios in one run: the three benches as functions."""

from pathlib import Path
from typing import Any

from otherview.bench.contenders import vit_s16
from otherview.bench.growth import bench_growth, count_measurements
from otherview.bench.kinds import bench_kinds
from otherview.bench.loader import ROUNDS as LOADER_ROUNDS
from otherview.bench.loader import Photos, bench_loader, bench_workers
from otherview.bench.loss import SIZES, bench_loss
from otherview.bench.operations import compare_operations
from otherview.bench.settings import LoaderSettings, LossSettings, StepSettings
from otherview.bench.step import ROUNDS, bench_step
from otherview.config import RunConfig
from otherview.data.source import Source
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.files import check_picture, check_written
from otherview.launch import shortened
from otherview.recipes.registry import find
from otherview.report.comparison_page import draw_growth
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import resolve_device, set_threads
from otherview.views.settings import ViewSettings


@takes(LoaderSettings)
def loader(settings: LoaderSettings) -> dict[str, Any]:
    """Images per second and core of the input path, of the reference and of decoding alone."""
    source = open_source(settings.data) if settings.data else Photos()
    views = ViewSettings(colour_on=settings.colour_on)
    rounds = 1 if shortened() else LOADER_ROUNDS
    with RunProgress(total=rounds, title="rounds") as progress:
        rates = bench_loader(source, views, rounds=rounds, advance=lambda: progress.advance(1))
    operations = {"operations": _operations(source, settings.operations)} if settings.operations > 0 else {}
    whole = {"images_per_second": bench_workers(source, views, settings.workers)} if settings.workers else {}
    kinds = {"kinds": _kinds(rounds)} if settings.kinds else {}
    return {**rates, **whole, **operations, **kinds}


@takes(StepSettings)
def step(settings: StepSettings) -> dict[str, Any]:
    """Images per second of a training step, of a reference, and the share of the measured peak."""
    set_threads(settings.threads)
    device = resolve_device(settings.device)
    config = _to_measure(settings, on_cpu=device.type == "cpu")
    if settings.growth:
        check_picture(settings.growth, flag="--growth")
        if device.type != "cpu":
            raise WrongRequest(f"--growth is measured on a CPU, not on {settings.device}: leave --device out")
    if settings.trace:
        check_written(settings.trace, flag="--trace")
    with RunProgress(total=ROUNDS + 1, title="rounds") as progress:
        found = bench_step(
            config,
            batch=config.batch,
            device=device,
            alone=not settings.reference,
            trace=settings.trace,
            advance=lambda: progress.advance(1),
        )
    return {**found, **({"growth": _growth(settings.growth)} if settings.growth else {})}


@takes(LossSettings)
def loss(settings: LossSettings) -> dict[str, Any]:
    """Peak memory and time of UniGrad at several sizes."""
    with RunProgress(total=len(SIZES), title="sizes") as progress:
        device = resolve_device(settings.device)
        return bench_loss(threads=settings.threads, device=device, advance=lambda: progress.advance(1))


def _to_measure(settings: StepSettings, *, on_cpu: bool) -> RunConfig:
    """The config of the model, with batch and training as they were asked for."""
    config = find(settings.recipe).make() if settings.recipe else vit_s16()
    if on_cpu and settings.reference and config.method.name != "siamese_im":
        raise WrongRequest(
            f"--recipe {settings.recipe} has no reference to be compared with on a CPU: use a recipe of siamese_im, a GPU, "
            "or --no-reference"
        )
    changes: dict[str, Any] = {
        "precision": settings.precision or ("fp32" if on_cpu else "bf16"),
        "compile": settings.compile,
        "accumulation": 1,
    }
    batch = settings.batch or (32 if on_cpu else 256)
    views = config.views.model_copy(update={"colour_on": settings.colour_on})
    training = config.training.model_copy(update=changes)
    return config.model_copy(update={"batch": batch, "training": training, "views": views})


def _growth(path: Path) -> dict[str, Any]:
    with RunProgress(total=count_measurements(), title="sizes") as progress:
        found = bench_growth(advance=lambda: progress.advance(1))
    draw_growth(found["axes"]).savefig(path, dpi=150)
    return {"figure": str(path), **found}


def _kinds(rounds: int) -> dict[str, Any]:
    with RunProgress(total=rounds, title="rounds") as progress:
        return bench_kinds(rounds=rounds, advance=lambda: progress.advance(1))


def _operations(source: Source, count: int) -> dict[str, Any]:
    with RunProgress(total=count, title="images") as progress:
        return compare_operations(source, count=count, advance=progress.advance)
