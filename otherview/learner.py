"""The contracts between methods, training and whoever watches.

    views(image, rng) ──▶ batch ──▶ prepare(all micro-batches) ──▶ forward(one micro-batch) ──▶ backward

A Learner is the module that is wrapped for many devices. `prepare` runs once per optimiser step, without gradient:
moving averages move there, first; targets and statistics of the whole step are made there. `forward` runs once per
micro-batch and changes no state, so that one graph lives at a time and accumulation is exact for the loss.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn


class Reduced(NamedTuple):
    """An image decoded at 1/`factor` of its size; its upper left corner lies at (`top`, `left`) of these pixels."""

    pixels: np.ndarray
    factor: int = 1
    top: float = 0.0
    left: float = 0.0


@runtime_checkable
class Image(Protocol):
    """An image as views see it: its size as a person sees it, its pixels and its class when asked for."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def label(self) -> Callable[[], int | None]:
        """Its class, counted from 0; None where it has none."""
        ...

    def decode(self) -> np.ndarray:
        """uint8 [H, W, C], the whole image."""
        ...

    def reduced(self, least_scale: float) -> Reduced:
        """The whole image at `least_scale` of its size or more."""
        ...


Views = Callable[[Image, Random], Any]
"""A pure function, run in a worker: one image and its generator in, one sample out."""


class StepLoss(NamedTuple):
    """What a forward pass returns: the scalar to descend and its detached parts, by name."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Tensor]


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
    def figures(self, context: Any) -> Mapping[str, Tensor]:
        """Detached diagnostics of a step, asked for only when the journal writes."""


@runtime_checkable
class Observer(Protocol):
    """Someone who looks at a run every `every` steps; the loop knows nothing else of the outside."""

    every: int

    def see(self, step: int, learner: Learner) -> Mapping[str, float]:
        """Figures to write into the journal at this step."""
        ...
