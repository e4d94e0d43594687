"""Speed and memory against a reference, ratios in one run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.verbs.request import Request, shortened

if TYPE_CHECKING:
    from otherview.data.source import Source


@dataclass(kw_only=True)
class BenchLoss(Request):
    """Memory and time of UniGrad at several sizes, beside what a square similarity matrix alone would take."""

    threads: int | None = None
    """CPU threads; default: all cores."""


@dataclass(kw_only=True)
class BenchLoader(Request):
    """Images per second of one core for two views at 224 px: decoding alone, torchvision on PIL images, and ours."""

    data: str | None = None
    """Images (a data SPEC), up to 256 of them; default: drawn photos of 500×375 px."""
    operations: int = 0
    """Also compare every operation with the reference's over so many images: mean, spread, quantiles."""


@dataclass(kw_only=True)
class BenchStep(Request):
    """Images per second of a step of SiameseIM at ViT-S/16, 224 px, fp32, beside a naive twin, and its peak memory."""

    batch: int = 32
    """Images per step."""
    threads: int | None = None
    """CPU threads; default: all cores."""
    growth: Path | None = None
    """Also measure how time and memory grow with batch, tokens and width, and draw it here: *.png or *.svg."""


def run(request: BenchLoss | BenchLoader | BenchStep) -> dict[str, Any]:
    """The verb."""
    from otherview.training.console import RunProgress

    if isinstance(request, BenchLoader):
        from otherview.bench.loader import ROUNDS, Photos, bench_loader
        from otherview.data.spec import open_source

        source = open_source(request.data) if request.data else Photos()
        rounds = 1 if shortened() else ROUNDS
        with RunProgress(total=rounds, title="rounds") as progress:
            rates = bench_loader(source, rounds=rounds, advance=lambda: progress.advance(1))
        return {**rates, **({"operations": _operations(source, request.operations)} if request.operations > 0 else {})}
    if isinstance(request, BenchStep):
        return _step(request)
    from otherview.bench.loss import SIZES, bench_loss

    with RunProgress(total=len(SIZES), title="sizes") as progress:
        return bench_loss(threads=request.threads, advance=lambda: progress.advance(1))


def _step(request: BenchStep) -> dict[str, Any]:
    from otherview.bench.step import ROUNDS, bench_step
    from otherview.bench.subject import vit_s16
    from otherview.training.console import RunProgress
    from otherview.verbs.request import check_picture, set_threads

    set_threads(request.threads)
    if request.growth:
        check_picture(request.growth, flag="--growth")
    config = vit_s16()
    with RunProgress(total=ROUNDS + 1, title="rounds") as progress:
        found = bench_step(config, batch=request.batch, advance=lambda: progress.advance(1))
    return {**found, **({"growth": _growth(request.growth)} if request.growth else {})}


def _growth(path: Path) -> dict[str, Any]:
    from otherview.bench.growth import bench_growth, count_measurements
    from otherview.report.curves import draw_growth
    from otherview.training.console import RunProgress

    with RunProgress(total=count_measurements(), title="sizes") as progress:
        found = bench_growth(advance=lambda: progress.advance(1))
    draw_growth(found["axes"]).savefig(path, dpi=150)
    return {"figure": str(path), **found}


def _operations(source: "Source", count: int) -> dict[str, Any]:
    from otherview.bench.operations import compare_operations
    from otherview.training.console import RunProgress

    with RunProgress(total=count, title="images") as progress:
        return compare_operations(source, count=count, advance=progress.advance)


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    if "share_of_matmul_peak" in result:
        figures = [f"{name:32} {value}" for name, value in result.items() if name != "growth"]
        return [*figures, *_growth_table(result.get("growth"))]
    if "ratio_to_reference" in result:
        rates = {name.split("_images")[0]: value for name, value in result.items() if name.endswith("per_core")}
        return [
            *(f"{name:10} {rate:8.1f} images/s per core" for name, rate in rates.items()),
            f"ours is {result['ratio_to_reference']:.2f} × the reference, {result['share_of_decode']:.0%} of decoding alone",
            *_table(result.get("operations", {})),
        ]
    return [
        f"{name:28} {row['peak_mb_beyond_inputs']:8.1f} MB beyond inputs  {row['seconds']:.3f} s  "
        f"(the square matrix alone: {row['square_matrix_mb']:.0f} MB)"
        for name, row in result.items()
    ]


def _growth_table(growth: dict[str, Any] | None) -> list[str]:
    if growth is None:
        return []
    lines = ["| size | ours, s | ours, MB | reference, s | reference, MB |", "|---|---|---|---|---|"]
    names = ("ours_seconds", "ours_mb", "reference_seconds", "reference_mb")
    for axis, rows in growth["axes"].items():
        lines += [f"| {axis} {row[axis]} | {' | '.join(f'{row[name]:g}' for name in names)} |" for row in rows]
    exponents = growth["memory_exponent_in_tokens"]
    said = ", ".join(f"{who} as tokens to the power {value}" for who, value in exponents.items())
    return [*lines, f"memory grows: {said}", f"drawn to {growth['figure']}"]


def _table(operations: dict[str, dict[str, float]]) -> list[str]:
    """The largest difference over level, contrast, saturation and sharpness, in levels of 255; spread as a ratio."""
    if not operations:
        return []
    head = "| operation | images | pixels apart | means apart | quantiles apart | spread × | standard error |"
    names = ("images", "pixel_apart", "mean_apart", "quantile_apart", "spread_ratio", "standard_error")
    rows = [
        f"| {name} | {' | '.join(f'{row[key]:g}' if key in row else '' for key in names)} |"
        for name, row in operations.items()
    ]
    return [head, "|---|---|---|---|---|---|---|", *rows]
