"""Images per second of an optimiser step, its share of the matrix-multiply peak and its memory, beside another's.

Ours and the other each run in a process of its own, ours as `pretrain` sets a process up, the other as torch starts, and
take turns with the peak: the best of five large products of the same device, precision and threads. Ratios are of
neighbours in time. On a CPU the other is the naive twin, on a GPU a masked autoencoder of timm's parts.
    python -m otherview.bench.step CONFIG 32 ours cpu 2      # some steps and their seconds for every line it reads
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from otherview.bench.contenders import contender, contenders, flops_per_image, random_batch, repeated, stepper
from otherview.bench.timm_mae import TimmMAE
from otherview.bench.trace import traced
from otherview.config import RunConfig
from otherview.training.device import finish, peak_memory_mb

ROUNDS = 3
PEAK_TRIES = 5
DRAWN = 16
"""Samples of a batch that are drawn; a larger one repeats them."""


class Measured(NamedTuple):
    """What is measured, and where."""

    config: RunConfig
    batch: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.config.training.precision == "bf16" else torch.float32


class _Runner:
    """A process that takes some steps whenever it is told to."""

    def __init__(self, measured: Measured, who: str) -> None:
        config, batch, device = measured
        words = [config.model_dump_json(), str(batch), who, str(device), str(torch.get_num_threads())]
        command = [sys.executable, "-m", "otherview.bench.step", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, Any]:
        """Seconds of a step and the largest memory so far, in MiB; the steps before it bring the memory back."""
        self.ask("")
        return self.ask("")

    def ask(self, line: str) -> Any:
        """The answer to a line: a file's name is traced to, an empty one asks for seconds and memory."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, and what it said stands above
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(
                f"the process that was measured ended with status {self.process.wait()}: if it ran out of memory, give a "
                "smaller --batch"
            )
        return json.loads(answer)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def bench_step(
    config: RunConfig,
    *,
    batch: int,
    device: torch.device,
    alone: bool = False,
    trace: Path | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Medians over rounds in which peak, our step and the other's take turns; the first round is a warm-up.

    `alone`: without the other. The first step's time, in which torch.compile compiles, is told apart.
    """
    measured = Measured(config, batch, device)
    runners = {who: _Runner(measured, who) for who in (["ours"] if alone else contenders(device))}
    seconds: dict[str, list[float]] = {who: [] for who in runners}
    peaks: list[float] = []
    memory: dict[str, int] = {}
    first_steps: dict[str, float] = {}
    try:
        for turn in range(ROUNDS + 1):
            peak = max(_product_flops(measured) for _ in range(PEAK_TRIES))
            for who, runner in runners.items():
                found = runner.step()
                memory[who] = found["peak_memory_mb"]
                first_steps[who] = found["first_step_seconds"]
                if turn:
                    seconds[who].append(found["seconds"])
            peaks += [peak] if turn else []
            advance()
        costliest = {"trace": str(trace), "costliest": runners["ours"].ask(str(trace))} if trace else {}
    finally:
        for runner in runners.values():
            runner.end()
    figures = _figures(measured, seconds, peaks, memory)
    return {**figures, "first_step_seconds": round(first_steps["ours"], 2), **costliest}


def _figures(
    measured: Measured, seconds: dict[str, list[float]], peaks: list[float], memory: dict[str, int]
) -> dict[str, Any]:
    config, batch, device = measured
    flops = {"ours": flops_per_image(config)}
    if "timm_mae" in seconds:
        flops["timm_mae"] = flops_per_image(config, make=TimmMAE)
    shares = {
        who: statistics.median(batch * count / one / peak for one, peak in zip(seconds[who], peaks, strict=True))
        for who, count in flops.items()
    }
    others = [who for who in seconds if who != "ours"]
    ratios = {
        who: statistics.median(theirs / ours for ours, theirs in zip(seconds["ours"], seconds[who], strict=True))
        for who in others
    }
    return {
        **{f"{who}_images_per_second": round(batch / statistics.median(rows), 3) for who, rows in seconds.items()},
        **{f"ratio_to_{who}": round(ratio, 3) for who, ratio in ratios.items()},
        "share_of_matmul_peak": round(shares["ours"], 3),
        **{f"{who}_share_of_matmul_peak": round(shares[who], 3) for who in others if who in shares},
        "matmul_peak_tflops": round(statistics.median(peaks) / 1e12, 3),
        "gflops_per_image": round(flops["ours"] / 1e9, 3),
        "batch": batch,
        "precision": config.training.precision,
        "compile": config.training.compile,
        "device": _name_of(device),
        "threads": torch.get_num_threads(),
        "peak_memory_mb": memory["ours"],
        **{f"{who}_peak_memory_mb": memory[who] for who in others},
    }


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _product_flops(measured: Measured) -> float:
    """FLOPs per second of one large product."""
    device = measured.device
    side, times = (2048, 1) if device.type == "cpu" else (8192, 10)
    a, b = torch.randn(2, side, side, device=device, dtype=measured.dtype).unbind()
    if device.type != "cpu":
        a @ b  # a kernel's first call is no measure
    finish(device)
    began = time.perf_counter()
    for _ in range(times):
        a @ b
    finish(device)
    return times * 2 * side**3 / (time.perf_counter() - began)


def _serve(measured: Measured, who: str) -> None:
    """Some steps for every line of standard input; what one took as a line of standard output."""
    config, batch, device = measured
    learner = contender(who, config)
    drawn = random_batch(learner, min(batch, DRAWN if device.type != "cpu" else batch))
    step = stepper(learner, config, repeated(drawn, batch), device)
    times = 1 if device.type == "cpu" else 8
    first_step = _seconds_of(step, 1, device)
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(traced(step, Path(line.strip()), device)), flush=True)
            continue
        seconds = _seconds_of(step, times, device)
        if device.type != "cpu":
            torch.accelerator.empty_cache()  # the other's turn is next, on the same device
        found = {"seconds": seconds, "peak_memory_mb": peak_memory_mb(device), "first_step_seconds": first_step}
        print(json.dumps(found), flush=True)


def _seconds_of(step: Callable[[], None], times: int, device: torch.device) -> float:
    """Seconds a step takes, over so many of them."""
    began = time.perf_counter()
    for _ in range(times):
        step()
    finish(device)
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[5]))
    _serve(
        Measured(RunConfig.model_validate_json(sys.argv[1]), int(sys.argv[2]), torch.device(sys.argv[4])), sys.argv[3]
    )
