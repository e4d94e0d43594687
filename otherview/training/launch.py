"""Which process of a job this is, before torch is imported: torchrun's variables, or SLURM's in their place. Torch-free."""

import os
import re
from collections.abc import Mapping

FIRST_PORT, PORTS = 20_000, 20_000


def from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables as `srun` implies them; nothing where torchrun or nobody launched several processes."""
    if "RANK" in environment or int(environment.get("SLURM_NTASKS", "1")) < 2 or "SLURM_PROCID" not in environment:
        return {}
    job = int(re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "0")) or 0)
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
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
