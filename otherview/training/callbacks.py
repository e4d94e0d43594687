"""What the loop tells the outside, and all that it knows of it: every hook does nothing until it is overridden.

class Printer(Callback):
    every = 100

    def on_step(self, step, learner):
        print(step)
        return {}
"""

from collections.abc import Mapping

from otherview.methods.learner import Learner


class Callback:
    """Someone who looks at a run; runs on every rank, so whatever writes asks `distributed.rank()` first."""

    every: int = 1
    """Steps between two calls of `on_step`; it is also called before the first step and after the last."""

    def on_step(self, step: int, learner: Learner) -> Mapping[str, float]:
        """`step` optimiser steps are done. Returns metrics for the metrics log, or nothing."""
        return {}

    def on_epoch(self, step: int, learner: Learner) -> None:
        """An epoch has ended."""

    def on_checkpoint(self, step: int, learner: Learner) -> None:
        """A checkpoint has been written that stays (training.keep_every)."""

    def on_end(self, step: int, learner: Learner) -> None:
        """The last step is done and its checkpoint is written."""
