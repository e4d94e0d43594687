"""What a run knows: its parts, how far it is, and what it has counted. What a checkpoint holds is decided here.

run = RunState(learner=…, settings=…, folder=…, plan=…, maker=…, accelerator=…, config_hash=…)
train(run)

A checkpoint is one file that holds all of it; written beside, synced, renamed, with readable JSON next to it.

checkpoints/last.pt, last.json       the newest
checkpoints/before.pt                the one before, should `last` be broken
checkpoints/step-003000.pt           kept ones
"""

import json
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from otherview.data.loader import Sample, SampleMaker, StepPlan, make_loader
from otherview.distributed import rank, ranks, same_on_all
from otherview.errors import WrongRequest
from otherview.files import atomically, write_atomically
from otherview.methods.learner import Learner
from otherview.training.callbacks import Callback
from otherview.training.console import RunProgress
from otherview.training.health import Health, Token
from otherview.training.metrics_log import MetricsLog
from otherview.training.optim import Rate, make_optimiser, rate_at
from otherview.training.settings import TrainingSettings

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


class Summary(NamedTuple):
    """How a run ended."""

    steps: int
    seconds: float
    """Of training, over all its processes."""
    cpu_seconds: float
    """Of the first rank and its workers, over all its processes; 0 where it was not trained on a CPU."""
    images_per_second: float
    waited_for_data_share: float
    metrics: Mapping[str, float]
    """The last logged line."""


@dataclass
class Tally:
    """What a run has counted so far, over all ranks; part of its checkpoint."""

    samples: int = 0
    """Images asked for."""
    seconds: float = 0.0
    """Of training, over all its processes."""
    cpu_seconds: float = 0.0
    """Of this rank and its workers, all threads of them."""
    replaced: int = 0
    """Images that could not be read and were replaced."""
    broken: set[int] = field(default_factory=set)
    """Indices of the images that could not be read, each once."""
    skipped: int = 0
    """Steps skipped because they were not finite."""
    skipped_in_a_row: int = 0


VERDICTS = 20
"""So many in a run."""


@dataclass(kw_only=True)
class RunState:
    """A run: its parts, handed in, and what changes while it goes on."""

    learner: Learner
    settings: TrainingSettings
    folder: Path
    plan: StepPlan
    """Which images go into which step, on this rank."""
    maker: SampleMaker
    """Images as the learner sees them."""
    accelerator: Accelerator
    config_hash: str
    """Names everything that decides the outcome, apart from the images."""
    licence: str | None = None
    """Of the weights that the run started from, where it did not start from random ones."""
    data_fingerprint: str = ""
    """Names the images, where it is known."""
    callbacks: Sequence[Callback] = ()
    make_optimiser: Callable[[Learner, TrainingSettings], torch.optim.Optimizer] = make_optimiser
    rate: Rate = rate_at
    """The learning rate of a step."""
    judged: bool = True
    """Whether a verdict is given now and then; what it speaks of are the metrics of pre-training."""
    token: Token = "mean"
    """The token whose kNN the verdict goes by."""
    title: str = "pre-training"
    """What the progress bar says."""
    track: Callable[[Mapping[str, float], int], None] = lambda _metrics, _step: None
    """Where metrics go beside the metrics log: trackers, on rank 0."""
    asked_to_stop: Callable[[], bool] = lambda: False
    tally: Tally = field(default_factory=Tally)

    @property
    def batch(self) -> int:
        """Global batch."""
        return self.plan.batch

    @property
    def steps(self) -> int:
        return self.plan.steps

    @property
    def steps_between_verdicts(self) -> int:
        """A twentieth of the run."""
        return max(1, self.steps // VERDICTS)

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch

    def batches_from(self, step: int) -> Iterable[Sample]:
        """Micro-batches of this rank from a step on."""
        on_gpu = self.accelerator.device.type == "cuda"
        return make_loader(self.maker, self.plan, start=step, workers=self.settings.workers, pin=on_gpu)

    def name_of(self, index: int) -> str:
        """What to call an image in a message."""
        return self.maker.source.name(index)

    def check_ranks(self, start: int) -> None:
        """Raise WrongRequest on all ranks where they do not run the same run on the same images from the same step."""
        same_on_all({
            "config hash": self.config_hash, "data": self.data_fingerprint, "images": self.plan.images, "first step": start,
        })  # fmt: skip

    def checkpoint(self, optimiser: torch.optim.Optimizer, log: MetricsLog, step: int) -> dict[str, Any]:
        """Everything that the run needs to continue after `step` steps, and an encoder to be taken out of it."""
        return {
            "step": step,
            "steps": self.steps,
            "learner": self.learner.state_dict(),
            "encoders": encoder_prefixes(self.learner),
            "optimiser": optimiser.state_dict(),
            "metrics_length": log.length,
            "tally": asdict(self.tally),
            "config_hash": self.config_hash,
            "licence": self.licence,
            "environment": environment(str(self.accelerator.device)),
        }


def encoder_prefixes(learner: Learner) -> dict[str, str]:
    """Before the names of each encoder's tensors in the learner's state, by the encoder's role."""
    names = {id(module): name for name, module in learner.named_modules()}
    return {role: f"{names[id(encoder.vit)]}." for role, encoder in learner.encoders.items()}


def save(run: RunState, optimiser: torch.optim.Optimizer, log: MetricsLog, step: int) -> str | None:
    """Write a checkpoint: `step` optimiser steps are done. Returns what to say where it cannot be written.

    A full disk must not end a run that may find room again: the checkpoint before stays whole.
    """
    state, keep = run.checkpoint(optimiser, log, step), run.settings.keeps_at(step)
    try:
        save_checkpoint(run.folder / "checkpoints", state, keep=keep)
        for callback in run.callbacks if keep else ():
            callback.on_checkpoint(step, run.learner)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where the disk is full
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        return f"no checkpoint at step {step} ({reason}): the one before stays; make room in {run.folder}"
    return None


def restore(run: RunState, optimiser: torch.optim.Optimizer) -> tuple[int, MetricsLog]:
    """Load the newest whole checkpoint; returns the step to go on from and the metrics log cut back to it.

    Raises WrongRequest where there are checkpoints and none can be read.
    """
    state, said = load_checkpoint(run.folder / "checkpoints")
    health = Health(collapse_after=run.settings.collapse_after, token=run.token)
    path = run.folder / "metrics.jsonl" if rank() == 0 else None
    progress = RunProgress(total=run.steps, start=0, speak=rank() == 0)
    for line in said:
        progress.say(line)
    if state is None and said:
        raise WrongRequest(
            f"no checkpoint in {run.folder / 'checkpoints'} can be read: give --fresh to start over, or remove it"
        )
    if state is None:
        return 0, MetricsLog(path, health=health)
    run.learner.load_state_dict(state["learner"])
    optimiser.load_state_dict(state["optimiser"])
    run.tally = Tally(**state["tally"])
    before = state["environment"]
    for name, value in environment(str(run.accelerator.device)).items():
        if before.get(name) != value:
            progress.say(f"{name} was {before.get(name)} and is {value}: the run continues, but not bit for bit")
    progress.say(f"continuing at step {state['step']} of {run.steps}")
    return state["step"], MetricsLog(path, length=state["metrics_length"], health=health)
