"""Memory and time of the loss, forward and backward, in a fresh process.

The peak is what the loss needs beyond its inputs: on a CPU VmHWM − VmRSS after a warm-up, on a GPU by torch's allocator.
    python -m otherview.bench.loss 25088 768 2 cpu
"""

import json
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from otherview.bench.contenders import forget_peak, peak_mb
from otherview.losses.unigrad import correlation, unigrad
from otherview.training.device import finish

SIZES = ((3136, 768), (12544, 768), (25088, 768))
"""Tokens × width: 16, 64 and 128 images of 196 patches on one rank."""
REPEATS = 5


def bench_loss(
    *, threads: int | None, device: torch.device, advance: Any = lambda: None
) -> dict[str, dict[str, float]]:
    """Every size in its own process; medians of seconds, the largest peak."""
    found = {}
    for tokens, width in SIZES:
        words = [str(tokens), str(width), str(threads or 0), str(device)]
        command = [sys.executable, "-m", "otherview.bench.loss", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"tokens_{tokens}_width_{width}"] = json.loads(done.stdout)
        advance()
    return found


def _measure(tokens: int, width: int, threads: int, device: torch.device) -> dict[str, float]:
    if threads:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)

    def once(y: Tensor, z: Tensor) -> float:
        y.grad = None
        began = time.monotonic()
        unigrad(y, z, correlation([z]), weight=0.02).total.backward()
        finish(device)
        return time.monotonic() - began

    def drawn(count: int) -> list[Tensor]:
        return [torch.randn(count, width, generator=generator).to(device) for _ in range(2)]

    small = drawn(64)
    once(small[0].requires_grad_(), small[1])  # warm-up: threads, kernels and autograd take their own memory once
    y, z = drawn(tokens)
    y.requires_grad_()
    before = forget_peak(device)
    seconds = sorted(once(y, z) for _ in range(REPEATS))[REPEATS // 2]
    return {
        "peak_mb_beyond_inputs": round(peak_mb(device) - before, 1),
        "seconds": round(seconds, 6),
        "square_matrix_mb": round(tokens * tokens * 4 / 2**20, 1),
    }


if __name__ == "__main__":
    tokens, width, threads = map(int, sys.argv[1:4])
    print(json.dumps(_measure(tokens, width, threads, torch.device(sys.argv[4]))))
