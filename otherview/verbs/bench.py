"""Speed and memory against a reference, ratios in one run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from otherview.verbs.request import Request


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


def run(request: BenchLoss | BenchLoader) -> dict[str, Any]:
    """The verb."""
    from otherview.training.console import RunProgress

    if isinstance(request, BenchLoader):
        from otherview.bench.loader import ROUNDS, Photos, bench_loader
        from otherview.data.spec import open_source

        source = open_source(request.data) if request.data else Photos()
        with RunProgress(total=ROUNDS, title="rounds") as progress:
            return bench_loader(source, advance=lambda: progress.advance(1))
    from otherview.bench.loss import SIZES, bench_loss

    with RunProgress(total=len(SIZES), title="sizes") as progress:
        return bench_loss(threads=request.threads, advance=lambda: progress.advance(1))


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    if "ratio_to_reference" in result:
        rates = {name.split("_images")[0]: value for name, value in result.items() if name.endswith("per_core")}
        return [
            *(f"{name:10} {rate:8.1f} images/s per core" for name, rate in rates.items()),
            f"ours is {result['ratio_to_reference']:.2f} × the reference, {result['share_of_decode']:.0%} of decoding alone",
        ]
    return [
        f"{name:28} {row['peak_mb_beyond_inputs']:8.1f} MB beyond inputs  {row['seconds']:.3f} s  "
        f"(the square matrix alone: {row['square_matrix_mb']:.0f} MB)"
        for name, row in result.items()
    ]
