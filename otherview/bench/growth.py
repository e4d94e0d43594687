"""How time and memory of a step grow with batch, tokens and width: ours and the naive twin.

Every point is measured in a fresh process: the peak of three steps beyond what the process held before, with model, gradients
and moments already there, so that only what grows is counted.
    python -m otherview.bench.growth 8 16 192 ours 2      # batch, side, width, who, threads
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from otherview.bench.contenders import WHO, contender, forget_peak, peak_mb, random_batch, stepper
from otherview.config import RunConfig
from otherview.methods.settings import SiameseIMSettings
from otherview.nn.settings import EncoderSettings
from otherview.training.settings import TrainingSettings

PATCH, DEPTH, HEAD = 16, 2, 32
STEPS = 3


class Point(NamedTuple):
    """A step's size."""

    batch: int
    """Images."""
    side: int
    """Patches along either side of the image."""
    width: int


BASE = Point(batch=8, side=16, width=192)
AXES = {
    "batch": [BASE._replace(batch=batch) for batch in (4, 8, 16, 32)],
    "tokens": [BASE._replace(side=side) for side in (8, 16, 24, 32)],
    "width": [BASE._replace(width=width) for width in (96, 192, 384, 768)],
}


def bench_growth(advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """By axis a row per point, and by whom the exponent of memory in the number of tokens over the last two points."""
    points = {point: {} for axis in AXES.values() for point in axis}
    for point, row in points.items():
        for who in WHO:
            command = [
                sys.executable,
                "-m",
                "otherview.bench.growth",
                *map(str, point),
                who,
                str(torch.get_num_threads()),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row |= {f"{who}_{name}": value for name, value in json.loads(done.stdout).items()}
            advance()
    table = {name: [{name: _value(name, point), **points[point]} for point in axis] for name, axis in AXES.items()}
    return {"axes": table, "memory_exponent_in_tokens": {who: _exponent(table["tokens"], who) for who in WHO}}


def count_measurements() -> int:
    """How often `advance` is called."""
    return len({point for axis in AXES.values() for point in axis}) * len(WHO)


def _value(axis: str, point: Point) -> int:
    return point.side**2 if axis == "tokens" else getattr(point, axis)


def _exponent(rows: list[dict[str, float]], who: str) -> float:
    """1 where memory grows as the tokens do, 2 where it grows as their square."""
    a, b = rows[-2:]
    return round(math.log(b[f"{who}_mb"] / a[f"{who}_mb"]) / math.log(b["tokens"] / a["tokens"]), 2)


def config_of(point: Point) -> RunConfig:
    """A shallow model of that size, fp32."""
    heads, size = point.width // HEAD, PATCH * point.side
    return RunConfig(
        batch=point.batch,
        encoder=EncoderSettings(image_size=(size, size), patch_size=PATCH, width=point.width, depth=DEPTH, heads=heads),
        method=SiameseIMSettings(head_width=point.width, head_heads=heads, projector_depth=1, predictor_depth=DEPTH),
        training=TrainingSettings(precision="fp32"),
    )


def measure(point: Point, who: str) -> dict[str, float]:
    """Seconds of a step (median) and the memory it needs beyond weights, gradients and moments, in MiB."""
    config = config_of(point)
    learner = contender(who, config)
    stepper(learner, config, random_batch(learner, 1))()
    step = stepper(learner, config, random_batch(learner, point.batch))
    before = forget_peak()
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return {"seconds": round(statistics.median(seconds), 4), "mb": round(peak_mb() - before, 1)}


if __name__ == "__main__":
    *numbers, who, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(json.dumps(measure(Point(*map(int, numbers)), who)))
