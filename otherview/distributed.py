"""Ranks: who am I, the mean over all, everyone's rows; plain identities when alone.

Nothing here needs a process group: with one process every function returns its argument, so the rest of the code is
written once. `gather` is differentiable, which is what synchronised batch statistics need.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from otherview.errors import WrongRequest

T = TypeVar("T")


def ranks() -> int:
    """How many processes take part."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 alone speaks and writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of every rank's tensor, without gradient."""
    if ranks() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / ranks()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        everyone = [torch.empty_like(values) for _ in range(ranks())]
        dist.all_gather(everyone, values.contiguous())
        return torch.stack(everyone)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank's loss depends on this rank's values: the gradients of all of them are summed.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank()]


def gather(values: Tensor) -> Tensor:
    """Everyone's tensor of the same shape, stacked: [ranks, ...]; differentiable on every rank."""
    if ranks() == 1:
        return values[None]
    return _Gather.apply(values)  # pyright: ignore[reportReturnType]


def rows_of_all(values: Tensor) -> Tensor:
    """Everyone's rows in the order of ranks, as many as each has, on the CPU; without gradient."""
    if ranks() == 1:
        return values
    device = torch.device("cuda") if dist.get_backend() == "nccl" else values.device
    counts = gather(torch.tensor([len(values)], device=device)).flatten().tolist()
    padded = values.new_zeros((max(counts), *values.shape[1:]), device=device)
    padded[: len(values)] = values
    return torch.cat([rows[:count].cpu() for rows, count in zip(gather(padded), counts, strict=True)])


PATIENCE = timedelta(days=2)


@cache
def _patient_group() -> Any:
    """All ranks, over gloo: Python objects travel on the CPU, and whoever waits for rank 0 to measure AP waits long."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def on_first(thing: Any) -> list[Any] | None:
    """Everyone's Python object in the order of ranks, on rank 0; None elsewhere, where nobody has to hold them all."""
    if ranks() == 1:
        return [thing]
    everyone: list[Any] | None = [None] * ranks() if rank() == 0 else None
    dist.gather_object(thing, everyone, group=_patient_group())
    return everyone


def from_first(thing: Any) -> Any:
    """Rank 0's small Python object, on every rank."""
    if ranks() == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0, group=_patient_group())
    return box[0]


def gather_objects(thing: Any) -> list[Any]:
    """Everyone's small Python object, in the order of ranks; slow, for rare news only."""
    if ranks() == 1:
        return [thing]
    everyone: list[Any] = [None] * ranks()
    dist.all_gather_object(everyone, thing, group=_patient_group())
    return everyone


def agree(check: Callable[[], T]) -> T:
    """What `check` returns on this rank. Where it raises WrongRequest on any rank, all raise that of the lowest.

    So a request that is wrong for one process ends them all at once, instead of leaving the others waiting for it.
    """
    result, problem = None, None
    try:
        result = check()
    except WrongRequest as error:
        problem = str(error)
    if first := next(filter(None, gather_objects(problem)), None):
        raise WrongRequest(first)
    return result  # pyright: ignore[reportReturnType]


def computed_by_first(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, on every rank: for what would be the same everywhere. Its WrongRequest ends all."""
    return from_first(agree(lambda: work() if rank() == 0 else None))  # pyright: ignore[reportReturnType]


def same_on_all(known: Mapping[str, object]) -> None:
    """Raise WrongRequest on every rank where something of `known` differs between them."""
    everyone = gather_objects(dict(known))
    for name in known:
        values = [one[name] for one in everyone]
        other = next((number for number, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise WrongRequest(
                f"the processes of this job differ in their {name}: {values[0]} on rank 0, {values[other]} on rank {other}; "
                "give all of them the same command, data and folder"
            )


def leave_job() -> None:
    """End this process's part of a job, where it had one; nothing may be gathered afterwards."""
    if dist.is_available() and dist.is_initialized():
        _patient_group.cache_clear()
        dist.destroy_process_group()
