"""Memory and time of the loss, forward and backward, in a fresh process.

On a CPU the peak is VmHWM − VmRSS after a warm-up: what the loss needs beyond its inputs.
    python -m otherview.bench.loss 25088 768
"""

import json
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from otherview.bench.contenders import forget_peak, status_mb
from otherview.losses.unigrad import correlation, unigrad

SIZES = ((3136, 768), (12544, 768), (25088, 768))
"""Tokens × width: 16, 64 and 128 images of 196 patches on one rank."""
REPEATS = 5


def bench_loss(*, threads: int | None, advance: Any = lambda: None) -> dict[str, dict[str, float]]:
    """Every size in its own process; medians of seconds, the largest peak."""
    found = {}
    for tokens, width in SIZES:
        command = [sys.executable, "-m", "otherview.bench.loss", str(tokens), str(width), str(threads or 0)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"tokens_{tokens}_width_{width}"] = json.loads(done.stdout)
        advance()
    return found


def _measure(tokens: int, width: int, threads: int) -> dict[str, float]:
    if threads:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)

    def once(y: Tensor, z: Tensor) -> float:
        y.grad = None
        began = time.monotonic()
        unigrad(y, z, correlation([z]), weight=0.02).total.backward()
        return time.monotonic() - began

    small = [torch.randn(64, width, generator=generator) for _ in range(2)]
    once(small[0].requires_grad_(), small[1])  # warm-up: threads, kernels and autograd take their own memory once
    y, z = (torch.randn(tokens, width, generator=generator) for _ in range(2))
    y.requires_grad_()
    forget_peak()
    before = status_mb("VmRSS")
    seconds = sorted(once(y, z) for _ in range(REPEATS))[REPEATS // 2]
    return {
        "peak_mb_beyond_inputs": round(status_mb("VmHWM") - before, 1),
        "seconds": round(seconds, 4),
        "square_matrix_mb": round(tokens * tokens * 4 / 2**20, 1),
    }


if __name__ == "__main__":
    print(json.dumps(_measure(*map(int, sys.argv[1:4]))))
