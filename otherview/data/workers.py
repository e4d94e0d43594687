"""Processes that read images: torch's loader, whose workers leave signals alone and need no large /dev/shm.

    for batch in Batches(dataset, workers=4, batch_size=250): ...

Batches go through shared memory; where there is little (64 MB in a container, by default), through pipes, which costs a copy.
"""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_convert
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from otherview.launch import STOPPING, keep_pages

T = TypeVar("T")
SHARED = "/dev/shm"
LEAST_SHARED = 2**29
"""Bytes of shared memory that are free; with less, batches go through pipes."""
KEPT_UNUSED = 128 * 2**20
"""Bytes that a worker keeps for its next image; one huge image is given back."""


def settle_worker(_worker: int) -> None:
    """A worker computes on one thread, the model has the others; and signals are the main process's business.

    Terminals and cluster schedulers send a signal to every process of a job: a worker that died of it would take the
    run down before its checkpoint is written. A worker leaves when its own parent says so, or is gone.
    What the parent left to its garbage collector stays there: a worker that frees another library's session waits for
    threads that only the parent has, for ever (ONNX Runtime's, after an export in the same process).
    """
    _leave_for_parent_alone()  # before the import, which may start threads: they too are not to hear it
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)

    import cv2

    gc.freeze()
    keep_pages(KEPT_UNUSED)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _leave_for_parent_alone() -> None:
    """End this process at a SIGTERM of its parent, and at nobody else's; where the sender is not told, at anybody's.

    Ignoring it altogether would leave a parent that ends with an error waiting for its workers for ever. The status is
    success, as of torch's own workers: with another, torch would report the worker in place of the error that ends the run.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True, name="waits for the parent's SIGTERM").start()


def usable_cores() -> int:
    """More workers than cores only take turns; the batches are the same for any number of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Batches(DataLoader[T]):
    """torch's loader with no more workers than cores."""

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        workers: int,
        kinds: Mapping[type, Callable[..., Any]] | None = None,
        collate_fn: Callable[[Any], Any] | None = None,
        **more: Any,
    ) -> None:
        """`kinds` says how samples of a type of their own are joined, as torch's collate_fn_map does."""
        workers = min(workers, usable_cores())
        self.piped = workers > 0 and _little_shared_memory()
        joined = default_convert if more.get("batch_size", 1) is None else joining(kinds or {}, piped=self.piped)
        collate_of_all = collate_fn or joined
        super().__init__(
            dataset,
            num_workers=workers,
            collate_fn=_Packing(collate_of_all) if self.piped else collate_of_all,
            worker_init_fn=settle_worker,
            **more,
        )

    def __iter__(self) -> Iterator[T]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = super().__iter__()
        return map(_unpacked, found) if self.piped else found


def _little_shared_memory() -> bool:
    try:
        state = os.statvfs(SHARED)
    except (AttributeError, OSError):  # a system without it
        return False
    return state.f_bavail * state.f_frsize < LEAST_SHARED


def joining(kinds: Mapping[type, Callable[..., Any]], *, piped: bool = False) -> Callable[[Any], Any]:
    """torch's own way to make a batch of samples, which knows more types; `piped`: without shared memory."""
    known = {**default_collate_fn_map, **({Tensor: _stacked} if piped else {}), **kinds}
    return partial(collate, collate_fn_map=known)


def _stacked(batch: Any, *, collate_fn_map: Any = None) -> Tensor:
    return torch.stack(list(batch))


class _Packed(NamedTuple):
    """A tensor on its way through a pipe."""

    array: np.ndarray


class _Packing:
    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        return _each(self.collate(samples), Tensor, lambda tensor: _Packed(tensor.numpy()))


def _unpacked(batch: Any) -> Any:
    return _each(batch, _Packed, lambda packed: torch.from_numpy(packed.array))


def _each(part: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same nested batch with everything of a kind changed."""
    if isinstance(part, kind):
        return change(part)
    if isinstance(part, dict):
        return {name: _each(inner, kind, change) for name, inner in part.items()}
    if isinstance(part, list):
        return [_each(inner, kind, change) for inner in part]
    if isinstance(part, tuple):
        inner = [_each(one, kind, change) for one in part]
        return type(part)(*inner) if hasattr(part, "_fields") else tuple(inner)
    return part
