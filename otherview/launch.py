"""How this process was started: as which of a job's processes, shortened or not, and whether it is asked to stop; and how it
keeps its memory. Torch-free.

torchrun's variables say which process of a job this is; under `srun`, SLURM's stand in their place.
"""

import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

FIRST_PORT, PORTS = 20_000, 20_000
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGUSR1
"""Signals that ask a run to stop."""


def from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables as `srun` implies them; nothing where torchrun or nobody launched several processes.

    SLURM_STEP_NUM_TASKS is set by `srun` alone: inside `sbatch` or `salloc` a bare command is one process, however many
    tasks the job has. A task that sees one GPU only calls it its first.
    """
    count = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if "RANK" in environment or count < 2 or "SLURM_PROCID" not in environment:
        return {}
    job = int(re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "0")) or 0)
    one_gpu = len(environment.get("CUDA_VISIBLE_DEVICES", "").split(",")) == 1 and environment.get(
        "CUDA_VISIBLE_DEVICES"
    )
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": "0" if one_gpu else environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_JOB_NODELIST", "localhost")),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(FIRST_PORT + job % PORTS),
    }


def first_host(nodes: str) -> str:
    """The first host of SLURM's short form: 'gpu[03-05,9],x1' → 'gpu03'."""
    match = re.match(r"([^,\[]*)(?:\[([^\]]*)\])?([^,]*)", nodes)
    assert match is not None
    number = re.split(r"[-,]", match[2])[0] if match[2] else ""
    return match[1] + number + match[3]


def adopt_slurm() -> None:
    """Let torch find the other processes of an `srun` job."""
    os.environ.update(from_slurm(os.environ))


def launched_ranks() -> int:
    """How many processes the job has, by its environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """This process's rank by its environment, before any process group exists."""
    return int(os.environ.get("RANK", "0"))


def shortened() -> bool:
    """Whether every command shall do a shortened run, as tests of the documentation ask for (OTHERVIEW_SHORTEN=1)."""
    return os.environ.get("OTHERVIEW_SHORTEN") == "1"


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT, SIGTERM or SIGUSR1 into a request that the loop honours after its step; a second SIGINT is immediate.

    Off the main thread, where Python allows no handlers, nobody is asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def note(number: int, _frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


MMAP_MAX, TRIM_THRESHOLD = -4, -1
"""Names of two options of glibc's mallopt: how many blocks may lie outside the heap; when its top is given back."""
LARGEST = 2**31 - 1


def keep_pages(most: int = LARGEST) -> bool:
    """Tell the allocator to keep what a step frees, for the next step wants the same; whether it listened.

    The C library hands large blocks back to the system as soon as they are free, and every step pays for getting them
    again, page by page: on a CPU a tenth of a ViT-S/16 step (docs/log.md, 2026-11-23). Up to `most` bytes are kept unused.
    Elsewhere than under glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, most))
