"""Several real gloo processes, and what they compute; imports little, because every process imports it again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _one_rank(rank: int, count: int, folder: str, work: Callable[..., Any], words: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    result = work(rank, *words)
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def in_ranks(count: int, work: Callable[..., Any], folder: Path, *words: Any) -> list[Any]:
    """Run `work(rank, *words)` in `count` processes; returns what each returned."""
    os.environ["OMP_NUM_THREADS"] = "1"
    mp.start_processes(_one_rank, (count, str(folder), work, words), nprocs=count, start_method="spawn")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


def unigrad_of_rank(rank: int, path: str) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one rank's share of a golden case."""
    from torch.nn import functional as F

    from otherview.losses.unigrad import correlation, unigrad

    arrays = np.load(path)
    y = torch.from_numpy(arrays[f"rank{rank}/pred"]).requires_grad_()
    raw = torch.from_numpy(arrays[f"rank{rank}/target"])
    z = F.layer_norm(raw, raw.shape[-1:], eps=1e-5)
    loss = unigrad(y, z, correlation([z]), weight=float(arrays["negative_weight"])).total
    loss.backward()
    assert y.grad is not None
    return float(loss.detach()), y.grad


def batch_norm_of_rank(rank: int, tokens: torch.Tensor, upstream: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, input gradient and affine gradients of this rank's share of the tokens."""
    from otherview.nn.batch_norm import TokenBatchNorm

    norm = TokenBatchNorm(tokens.shape[-1])
    mine = tokens[rank].clone().requires_grad_()
    out = norm(mine)
    (out * upstream[rank]).sum().backward()
    assert mine.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    return out.detach(), mine.grad, norm.weight.grad, norm.bias.grad


def correlation_of_rank(rank: int, targets: torch.Tensor) -> torch.Tensor:
    """C as this rank sees it."""
    from otherview.losses.unigrad import correlation

    return correlation([targets[rank]])
