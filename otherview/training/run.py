"""A run as the loop gets it: parts handed in, and what comes out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from otherview.data.loader import Sample
from otherview.learner import Learner, Observer
from otherview.training.optim import make_optimiser
from otherview.training.schedule import Rate, rate_at
from otherview.training.settings import TrainingSettings


class Summary(NamedTuple):
    """How a run ended."""

    steps: int
    seconds: float
    """Of training, over all its processes."""
    cpu_seconds: float
    """Of the first rank and its workers, over all its processes; 0 where it was not trained on a CPU."""
    images_per_second: float
    waited_for_data_share: float
    figures: Mapping[str, float]
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
    """How many of them could not be read."""
    broken: set[int] = field(default_factory=set)
    """Indices of the images that could not be read, each once."""
    skipped: int = 0
    """Steps skipped because they were not finite."""
    skipped_in_a_row: int = 0


@dataclass
class Run:
    """The parts of a run."""

    learner: Learner
    settings: TrainingSettings
    folder: Path
    batch: int
    """Global batch."""
    steps: int
    steps_per_epoch: int
    config_hash: str
    accelerator: Accelerator
    loader_from: Callable[[int], Iterable[Sample]]
    """Micro-batches from a step on."""
    name_of: Callable[[int], str]
    """What to call an image in a message."""
    observers: Sequence[Observer] = ()
    make_optimiser: Callable[[Learner, TrainingSettings], torch.optim.Optimizer] = make_optimiser
    rate: Rate = rate_at
    """The learning rate of a step."""
    judged: bool = True
    """Whether a verdict is given at every epoch's end; what it speaks of are the figures of pre-training."""
    title: str = "pre-training"
    """What the progress bar says."""
    track: Callable[[Mapping[str, float], int], None] = lambda _figures, _step: None
    """Where figures go beside the journal: trackers, on rank 0."""
    asked_to_stop: Callable[[], bool] = lambda: False
    tally: Tally = field(default_factory=Tally)
