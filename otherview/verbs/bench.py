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


def run(request: BenchLoss) -> dict[str, Any]:
    """The verb."""
    from otherview.bench.loss import SIZES, bench_loss
    from otherview.training.console import RunProgress

    with RunProgress(total=len(SIZES), title="sizes") as progress:
        return bench_loss(threads=request.threads, advance=lambda: progress.advance(1))


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return [
        f"{name:28} {row['peak_mb_beyond_inputs']:8.1f} MB beyond inputs  {row['seconds']:.3f} s  "
        f"(the square matrix alone: {row['square_matrix_mb']:.0f} MB)"
        for name, row in result.items()
    ]
