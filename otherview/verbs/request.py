"""What all verbs share: the flags every request has, and the words for devices. Torch-free."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from otherview.errors import WrongRequest

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(kw_only=True)
class Request:
    """Flags of every verb."""

    json: bool = False
    """Print exactly one line, one JSON object."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(kw_only=True)
class Computing(Request):
    """Flags of every verb that computes."""

    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads; default: all cores."""


def shortened() -> bool:
    """Whether every verb shall do a shortened run, as tests of the documentation ask for."""
    return os.environ.get("OTHERVIEW_SHORTEN") == "1"


def resolve_device(name: DeviceName) -> "torch.device":
    """The torch device of a name; raises WrongRequest where there is none."""
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available()}  # MPS lacks the doubles of positions and spectra
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "cpu") if present[kind]))
    if not present[name]:
        raise WrongRequest(f"--device {name} is not available on this machine: use --device auto or cpu")
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Limit CPU threads, where asked for."""
    check_threads(threads)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def check_threads(threads: int | None) -> None:
    """Raise WrongRequest for what is no number of threads."""
    if threads is not None and threads < 1:
        raise WrongRequest(f"--threads {threads} is not a number of threads: give 1 or more")


def check_picture(path: Path, *, flag: str) -> None:
    """Before any work, raise WrongRequest where no picture can be written to this path; its folder is made."""
    if path.suffix not in (".png", ".svg"):
        raise WrongRequest(f"{flag} {path} must end in .png or .svg")
    check_written(path, flag=flag)


def check_written(path: Path, *, flag: str) -> None:
    """Before any work, raise WrongRequest where no file can be written to this path; its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise WrongRequest(
            f"{flag} {path} cannot be written ({error.strerror}): choose a folder that you own"
        ) from error
