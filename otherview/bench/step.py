"""Images per second of an optimiser step, its share of the matrix-multiply peak and its memory, beside the naive twin.

Ours and the twin each run in a process of its own, ours as `pretrain` sets a process up, the twin as torch starts, and
take turns with the peak: the best of five fp32 2048³ products with the same threads. Ratios are of neighbours in time.
    python -m otherview.bench.step CONFIG 32 ours 2      # a step and its seconds for every line it reads
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from otherview.bench.contenders import WHO, contender, flops_per_image, random_batch, status_mb, stepper
from otherview.config import RunConfig

ROUNDS = 3
PEAK_SIDE, PEAK_TRIES = 2048, 5


class _Runner:
    """A process that takes a step whenever it is told to."""

    def __init__(self, config: RunConfig, batch: int, who: str) -> None:
        words = [config.model_dump_json(), str(batch), who, str(torch.get_num_threads())]
        command = [sys.executable, "-m", "otherview.bench.step", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, float]:
        """Seconds of one step and the largest memory so far, in MiB; the step before it brings the memory back."""
        self._step()
        return self._step()

    def _step(self) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the process that was measured ended with status {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def bench_step(config: RunConfig, *, batch: int, advance: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Medians over rounds in which peak, our step and the twin's take turns; the first round is a warm-up."""
    flops = batch * flops_per_image(config)
    runners = {who: _Runner(config, batch, who) for who in WHO}
    seconds: dict[str, list[float]] = {who: [] for who in WHO}
    shares: list[float] = []
    memory: dict[str, float] = {}
    try:
        for turn in range(ROUNDS + 1):
            peak = max(_product_flops() for _ in range(PEAK_TRIES))
            for who, runner in runners.items():
                measured = runner.step()
                memory[who] = measured["peak_memory_mb"]
                if turn:
                    seconds[who].append(measured["seconds"])
            if turn:
                shares.append(flops / seconds["ours"][-1] / peak)
            advance()
    finally:
        for runner in runners.values():
            runner.end()
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["reference"], strict=True)]
    return {
        **{f"{who}_images_per_second": round(batch / statistics.median(seconds[who]), 3) for who in WHO},
        "ratio_to_reference": round(statistics.median(ratios), 3),
        "share_of_matmul_peak": round(statistics.median(shares), 3),
        "gflops_per_image": round(flops / batch / 1e9, 3),
        "threads": torch.get_num_threads(),
        "peak_memory_mb": memory["ours"],
        "reference_peak_memory_mb": memory["reference"],
    }


def _product_flops() -> float:
    """FLOPs per second of one large product."""
    a, b = torch.randn(2, PEAK_SIDE, PEAK_SIDE).unbind()
    began = time.perf_counter()
    a @ b
    return 2 * PEAK_SIDE**3 / (time.perf_counter() - began)


def _serve(config: RunConfig, batch: int, who: str) -> None:
    """A step for every line of standard input; what it took as a line of standard output."""
    learner = contender(who, config)
    step = stepper(learner, config, random_batch(learner, batch))
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        found = {"seconds": time.perf_counter() - began, "peak_memory_mb": round(status_mb("VmHWM"))}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    _serve(RunConfig.model_validate_json(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
