"""One file that holds everything the loop knows; written beside, synced, renamed, with readable JSON next to it.

checkpoints/last.pt, last.json       the newest
checkpoints/before.pt                the one before, should `last` be broken
checkpoints/step-003000.pt           kept ones
"""

import json
import platform
import shutil
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from otherview.distributed import rank, ranks
from otherview.files import atomically, write_atomically

DECIDING = "timm", "torchvision", "numpy", "pillow", "opencv-python-headless", "simplejpeg"
"""Libraries whose versions decide pixels or weights, beside torch."""


def environment(device: str) -> dict[str, Any]:
    """What an exact continuation is relative to."""
    on_gpu = device.startswith("cuda")
    return {
        **{name: _version(name) for name in DECIDING},
        "processor": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),  # a plain string: torch's own class is no safe global
        "device": device,
        "threads": torch.get_num_threads(),
        "ranks": ranks(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it came by another road than pip
        return "unknown"


def save_checkpoint(folder: Path, state: dict[str, Any], *, keep: bool) -> None:
    """Rank 0 writes `last`, the former one becomes `before`; with `keep` a copy stays under its step."""
    if rank() != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.pt"
    temporary = folder / "new.pt"
    atomically(temporary, lambda path: torch.save(state, path))
    if last.exists():
        last.replace(folder / "before.pt")
    temporary.replace(last)
    readable = {
        name: value for name, value in state.items() if isinstance(value, (int, float, str, dict)) and name in READABLE
    }
    write_atomically(folder / "last.json", json.dumps(readable, indent=1).encode())
    if keep:
        atomically(folder / f"step-{state['step']:06d}.pt", lambda path: shutil.copyfile(last, path))


READABLE = ("step", "steps", "metrics_length", "environment", "config_hash")


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint, if any, and what has to be said about broken ones."""
    said = []
    for name in ("new.pt", "last.pt", "before.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True), said
        except Exception as error:
            said.append(f"{path} cannot be read ({type(error).__name__}): it is not whole, or not ours")
    return None, said
