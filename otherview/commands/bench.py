"""`otherview bench …`."""

from typing import Any

from otherview.bench.settings import LoaderSettings, LossSettings, StepSettings
from otherview.commands.command import Command


def show_bench(result: dict[str, Any]) -> list[str]:
    """A table that can be pasted."""
    if "share_of_matmul_peak" in result:
        figures = [f"{name:32} {value}" for name, value in result.items() if name not in ("growth", "costliest")]
        return [*figures, *_costliest(result.get("costliest", [])), *_growth_table(result.get("growth"))]
    if "ratio_to_reference" in result:
        rates = {name.split("_images")[0]: value for name, value in result.items() if name.endswith("per_core")}
        return [
            *(f"{name:10} {rate:8.1f} images/s per core" for name, rate in rates.items()),
            *([f"all workers {result['images_per_second']:8.1f} images/s"] if "images_per_second" in result else []),
            f"ours is {result['ratio_to_reference']:.2f} × the reference, {result['share_of_decode']:.0%} of decoding alone",
            *_table(result.get("operations", {})),
            *_kinds(result.get("kinds", {})),
        ]
    return [
        f"{name:28} {row['peak_mb_beyond_inputs']:8.1f} MB beyond inputs  {row['seconds']:.3f} s  "
        f"(the square matrix alone: {row['square_matrix_mb']:.0f} MB)"
        for name, row in result.items()
    ]


def _costliest(rows: list[dict[str, Any]]) -> list[str]:
    """The operations that cost most, by their own time in one step."""
    if not rows:
        return []
    lines = [f"| {row['operation']} | {row['milliseconds']:g} | {row['share']:.1%} | {row['calls']} |" for row in rows]
    return ["| operation | ms a step | share | calls |", "|---|---|---|---|", *lines]


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


def _kinds(kinds: dict[str, dict[str, float]]) -> list[str]:
    """Images per second and core by kind of file."""
    if not kinds:
        return []
    rows = [
        f"| {name} | {row['ours']:g} | {row['decode']:g} | {row['to_decode']:g} | {row.get('to_eight_bits', '')} |"
        for name, row in kinds.items()
    ]
    return [
        "| kind | two views, images/s | decoding alone, images/s | ratio | to 8 bits |",
        "|---|---|---|---|---|",
        *rows,
    ]


COMMANDS = (
    Command(
        words="bench loader", what="images/s per core of the input path against torchvision on PIL images",
        settings=LoaderSettings, work="otherview.bench.run:loader", show=show_bench,
    ),
    Command(
        words="bench step", what="images/s of a training step, share of the device's peak, memory, where the time goes",
        settings=StepSettings, work="otherview.bench.run:step", show=show_bench,
    ),
    Command(
        words="bench loss", what="memory and time of the loss",
        settings=LossSettings, work="otherview.bench.run:loss", show=show_bench,
    ),
)  # fmt: skip
