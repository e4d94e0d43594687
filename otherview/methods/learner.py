"""The contract between a method and the loop.

    views(image, rng) ──▶ batch ──▶ prepare(all micro-batches) ──▶ forward(one micro-batch) ──▶ backward

A Learner is the module that is wrapped for many devices. `prepare` runs once per optimiser step, without gradient:
moving averages move there, first; targets and statistics of the whole step are made there. `forward` runs once per
micro-batch and changes no state, so that one graph lives at a time and accumulation is exact for the loss.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from otherview.data.image import Views
from otherview.losses.objectives import StepLoss


class Learner(nn.Module, ABC):
    """A method as the loop sees it."""

    @property
    @abstractmethod
    def views(self) -> Views:
        """How a sample is made from an image; pickled into the workers, so it must not hold the model."""

    @property
    @abstractmethod
    def encoders(self) -> Mapping[str, Any]:
        """The encoders worth keeping, by role: 'encoder' (the online one) first."""

    @abstractmethod
    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The trainable parameters as optimiser groups; frozen ones are in no group."""

    @abstractmethod
    def prepare(self, micro_batches: Sequence[Any], progress: float) -> Any:
        """Once per optimiser step, without gradient: move averages, make targets. `progress` runs from 0 to 1."""

    @abstractmethod
    def forward(self, batch: Any, context: Any, index: int) -> StepLoss:
        """The loss of micro-batch `index` given what `prepare` returned; changes no state."""

    @abstractmethod
    def metrics(self, context: Any) -> Mapping[str, Tensor]:
        """Detached diagnostics of a step, asked for only when the metrics log writes."""
