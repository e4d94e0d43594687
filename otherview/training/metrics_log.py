"""The metrics log: one JSON line per logged step, cut back to what a checkpoint knows when a run continues.

Throughput: time over a run, and how much of it was spent waiting for data.
"""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from otherview.files import json_lines
from otherview.training.health import Health


class Throughput:
    """Counts steps and seconds; `with throughput.waiting()` marks the time in which the model stood still for data."""

    def __init__(self, batch: int) -> None:
        self.batch, self.steps, self.waited = batch, 0, 0.0
        self.began, self.began_cpu = time.monotonic(), _cpu_seconds()

    def waiting(self) -> "Throughput":
        """A context in which time counts as waited."""
        return self

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.waited += time.monotonic() - self._since

    def tick(self) -> None:
        """One step is done."""
        self.steps += 1

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    @property
    def cpu_seconds(self) -> float:
        """Of this process and its workers since the start, all their threads: hardly moved by what else the machine does."""
        return _cpu_seconds() - self.began_cpu

    @property
    def images_per_second(self) -> float:
        """Over all ranks, waiting included."""
        return self.steps * self.batch / max(self.seconds, 1e-9)

    @property
    def waited_share(self) -> float:
        """Share of the time waited for data, in [0, 1]."""
        return self.waited / max(self.seconds, 1e-9)

    def seconds_for(self, steps: int) -> float:
        """What so many more steps will take at this pace."""
        return self.seconds / max(1, self.steps) * steps

    def shown(self) -> dict[str, str]:
        """For the progress bar."""
        return {"images/s": f"{self.images_per_second:.0f}", "waited for data": f"{self.waited_share:.0%}"}


def _cpu_seconds() -> float:
    own = psutil.Process()
    spent = sum(own.cpu_times()[:4])  # user and system, its own and of children that have ended
    for child in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            spent += sum(child.cpu_times()[:2])
    return spent


class MetricsLog:
    """`metrics.jsonl`; rank 0 writes, the others hold a silent one (`path` None)."""

    def __init__(self, path: Path | None, *, length: int = 0, health: Health | None = None) -> None:
        self.path = path
        self.health = health or Health()
        """What the lines so far say; on silent ranks too."""
        if path is not None:
            with path.open("ab") as file:
                file.truncate(min(length, file.seek(0, os.SEEK_END)))
            for line in json_lines(path):
                self.health.see(line)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null, as JSON has none."""
        self.health.see(line)
        if self.path is None:
            return
        clean = {name: _as_json(value) for name, value in line.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path is not None else 0


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
