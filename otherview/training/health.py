"""Is it learning or has it collapsed? A verdict from the metrics log, by written rules, with what to do. Torch-free.

diverging     a step was skipped (not finite) among the last 10 logged lines, or the median of the last 5 losses is over
              1.5 times the least such median so far
collapsing    the effective rank of C is at or under 4, and has been since the step that is named; said only after 1,500
              steps or at the end, because every run starts there, and not where an online kNN says otherwise
learning      with an online kNN: at least 5 points above the untrained encoder; without: none of the above
slow          an online kNN has gained less than 5 points
fitting       a learner of labels, without kNN: how many of its training images it names right
data-bound    beside any of these: more than 30 % of the time went by waiting for data
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

COLLAPSED_RANK = 4.0
"""At or under this effective rank the targets of a run fill no more directions than those of an untrained network."""
LEARNT_POINTS = 0.05
COLLAPSE_AFTER = 1500
DIVERGED, LOSSES, RECENT_LINES = 1.5, 5, 10
WAITED = 0.3


class Health:
    """Takes the metrics log's lines one by one and remembers what the rules need; memory does not grow."""

    def __init__(self, *, collapse_after: int = COLLAPSE_AFTER) -> None:
        self.collapse_after = collapse_after
        self.step = 0
        self.rank: float | None = None
        self.low_since: int | None = None
        self.losses: deque[float] = deque(maxlen=LOSSES)
        self.least = float("inf")
        self.skipped: deque[int] = deque([0], maxlen=RECENT_LINES + 1)
        self.accuracy: float | None = None
        """Of a learner of labels, on its own training images."""
        self.knn: list[float] = []
        """The first and the latest look."""
        self.waited = 0.0

    def see(self, line: Mapping[str, Any]) -> None:
        """One line of the metrics log."""
        self.step = line.get("step", self.step)
        if (rank := line.get("effective_rank")) is not None and math.isfinite(rank):
            self.rank = rank
            since = self.step if self.low_since is None else self.low_since
            self.low_since = since if rank <= COLLAPSED_RANK else None
        if (loss := line.get("loss")) is not None and math.isfinite(loss):
            self.losses.append(loss)
            if len(self.losses) == LOSSES:
                self.least = min(self.least, statistics.median(self.losses))
        if "skipped" in line:
            self.skipped.append(line["skipped"])
        if "knn_mean" in line:
            self.knn = [self.knn[0] if self.knn else line["knn_mean"], line["knn_mean"]]
        self.accuracy = next((value for name, value in line.items() if name.startswith("accuracy")), self.accuracy)
        self.waited = line.get("waited", self.waited)

    @property
    def collapsing(self) -> bool:
        """Whether the targets have lost their directions for longer than every run does at first."""
        return self.low_since is not None and self.step >= self.collapse_after and not self._gained

    @property
    def _gained(self) -> bool:
        return bool(self.knn) and self.knn[1] - self.knn[0] >= LEARNT_POINTS

    def verdict(self, *, final: bool = False) -> str:
        """What to think of the run now, and what to do."""
        said = self._state(final)
        if self.waited > WAITED:
            said += (
                f"; data-bound: {self.waited:.0%} of the time went by waiting for data, raise training.workers or put the "
                "images on a faster disk (otherview bench loader says what one core can do)"
            )
        return said

    def _state(self, final: bool) -> str:
        if self.rank is None and not self.losses:
            return "unknown: nothing was logged; lower training.log_every"
        if (reason := self._diverging()) is not None:
            return f"diverging: {reason}; lower training.lr_per_256, or use training.precision fp32"
        directions = (
            f"the targets fill {self.rank:.1f} directions" if self.rank is not None else "no spectrum was logged"
        )
        knn = f"kNN {self.knn[0]:.3f} → {self.knn[1]:.3f}, " if self.knn else ""
        if self._gained:
            return f"learning: {knn}{directions}"
        if self.low_since is not None and (final or self.collapsing):
            return (
                f"collapsing since step {self.low_since}: {knn}{directions}; keep method.negative_weight · "
                "method.head_width near 15, warm up for 300 steps or more, and train for more steps or, in a short run, with "
                "method.momentum_schedule constant"
            )
        if self.low_since is not None:
            return f"too early to say: {knn}{directions}, as at the start of every run"
        if self.knn:
            return f"slow: {knn}{directions}; train for more steps"
        if self.accuracy is not None:
            return f"fitting: {self.accuracy:.1%} of the training images are named right"
        if self.rank is None:
            return "unknown: this method logs no spectrum; watch kNN with --knn-bank SPEC --knn-test SPEC"
        return f"learning: {directions}"

    def _diverging(self) -> str | None:
        if new := self.skipped[-1] - self.skipped[0]:
            return f"{new} steps were not finite and were skipped"
        if len(self.losses) == LOSSES and (now := statistics.median(self.losses)) > DIVERGED * self.least:
            return f"the loss is {now:.3f} and was {self.least:.3f}"
        return None


def verdict(lines: Iterable[Mapping[str, Any]]) -> str:
    """The verdict on a finished run."""
    health = Health()
    for line in lines:
        health.see(line)
    return health.verdict(final=True)
