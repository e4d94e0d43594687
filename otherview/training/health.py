"""Is it learning or has it collapsed? The judgement of a run from its metrics log, by written rules. Torch-free.

Of these states the first that applies is said:

diverging          a step was skipped (not finite) among the last 10 logged lines, or the median of the last 5 losses is over
                   1.5 times the least such median so far
too early to say   fewer than 100 steps, or fewer than 2 looks at a measure of learning after the start (unless it has risen)
collapsing         the effective rank of C has been 4 or less since the step that is named, which is said after 1,500 steps, or at
                   the end if half of the run was so, because every run starts there; never where a measure has risen
falling back       the measure has fallen from its best by 5 points and by more than chance may do
not yet worth it   it has risen, but raw pixels, the untrained encoder or the start weights are ahead by more than chance may do
learning           it has risen by 5 points (patch retrieval: 2) and by more than chance may do since the start
too few            it has moved that far, but on so few test images that chance may do it
slow               none of these
fitting            supervised training without an online kNN: the share of its training images that it classifies correctly

The measure is the online kNN of the method's own token; without labels it is patch retrieval, which can show that dense features
are learned, and shows nothing about others. None of the rules goes back from a later state to "too early to say".
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from otherview.judgement import (
    COLLAPSING,
    DIVERGING,
    EARLY,
    ERRORS,
    FALLING,
    FITTING,
    LEARNING,
    NOT_YET,
    PIXELS,
    SLOW,
    START,
    TOO_FEW,
    UNKNOWN,
    UNTRAINED,
    Comparison,
    Judgement,
    apart,
    images_for,
    points,
)
from otherview.training.curve import Curve, Look, error_between

COLLAPSED_RANK = 4.0
"""At or under this effective rank the targets of a run fill no more directions than those of an untrained network."""
KNN_POINTS, RETRIEVAL_POINTS = 0.05, 0.02
COLLAPSE_AFTER = 1500
EARLY_STEPS = 100
DIVERGED, LOSSES, RECENT_LINES = 1.5, 5, 10
WAITED = 0.3
AT_LEAST = 1.05
"""A loss of up to so many times the least that the targets allow has nothing left to learn from them."""
Token = Literal["mean", "cls"]


class Health:
    """Takes the metrics log's lines one by one and remembers what the rules need; memory does not grow."""

    def __init__(self, *, collapse_after: int = COLLAPSE_AFTER, token: Token = "mean") -> None:
        self.collapse_after, self.token = collapse_after, token
        self.step = 0
        self.rank: float | None = None
        self.low_since: int | None = None
        self.losses: deque[float] = deque(maxlen=LOSSES)
        self.least = self.reachable = float("inf")
        self.skipped: deque[int] = deque([0], maxlen=RECENT_LINES + 1)
        self.accuracy: float | None = None
        """Of a learner of labels, on its own training images."""
        self.knn = Curve("kNN" if token == "mean" else "kNN of the cls token", least=KNN_POINTS)
        self.other = Curve("the cls token" if token == "mean" else "the mean token", least=KNN_POINTS)
        self.retrieval = Curve("patches that find their place", least=RETRIEVAL_POINTS)
        self.untrained_retrieval: float | None = None
        """Of a run that started from weights."""
        self.rankme: list[float] = []
        """The first and the latest."""
        self.beside: dict[str, float] = {}
        """Scores of the references that were logged."""
        self.images = 0
        """Test images of the online kNN."""
        self.waited = 0.0
        self.warned = False
        """Whether it has ever looked like a collapse: then it is no longer too early to say anything."""

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
        if (least := line.get("reachable_loss")) is not None:
            self.reachable = least
        if "skipped" in line:
            self.skipped.append(line["skipped"])
        self._look(line)
        self.accuracy = next((value for name, value in line.items() if name.startswith("accuracy")), self.accuracy)
        self.waited = line.get("waited", self.waited)
        self.warned |= self.collapsing

    def _look(self, line: Mapping[str, Any]) -> None:
        """What the callbacks measured, if this line has it."""
        self.images = line.get("knn_images", self.images)
        for name, key in ((PIXELS, "knn_pixels"), (UNTRAINED, f"knn_untrained_{self.token}")):
            if (value := line.get(key)) is not None:
                self.beside[name] = value
        for curve, token in ((self.knn, self.token), (self.other, "cls" if self.token == "mean" else "mean")):
            if (value := line.get(f"knn_{token}")) is not None:
                curve.add(Look(self.step, value, self._binomial(value)))
        if (value := line.get("retrieval_untrained")) is not None:
            self.untrained_retrieval = value
        if (value := line.get("retrieval")) is not None:
            self.retrieval.add(Look(self.step, value, line.get("retrieval_error", 0.0)))
        if (value := line.get("rankme")) is not None:
            self.rankme = [self.rankme[0] if self.rankme else value, value]

    def _binomial(self, value: float) -> float:
        return math.sqrt(value * (1 - value) / self.images) if self.images else 0.0

    @property
    def measure(self) -> Curve | None:
        """What learning is judged by."""
        return next((curve for curve in (self.knn, self.retrieval) if curve.looks), None)

    @property
    def collapsing(self) -> bool:
        """Whether the targets have lost their directions for longer than every run does at first."""
        return self.low_since is not None and self.step >= self.collapse_after and not self._risen

    @property
    def _risen(self) -> bool:
        return self.measure is not None and self.measure.risen

    def judge(self, *, final: bool = False) -> Judgement:
        """What to think of the run now, and what to do."""
        found = self._judge(final)
        if self.waited <= WAITED:
            return found
        evidence = f"{found.evidence}; data-bound: {self.waited:.0%} of the time was spent waiting for data"
        advice = "raise training.workers or put the images on a faster disk (otherview bench loader shows what one core can do)"
        action = f"{found.action}; {advice}" if found.action else advice[0].upper() + advice[1:]
        return Judgement(found.state, evidence, action)

    def _judge(self, final: bool) -> Judgement:
        if (reason := self._diverging()) is not None:
            return Judgement(DIVERGING, reason, "Lower training.lr_per_256, or use training.precision fp32")
        measure, evidence = self.measure, self._evidence
        unseen = measure is not None and measure.early and not self.warned
        if self.step < EARLY_STEPS or (unseen and not final):
            return Judgement(EARLY, ", ".join([f"{self.step:,} steps so far", *evidence]))
        long_low = self.low_since is not None and self.low_since <= self.step / 2
        if not self._risen and (self.collapsing or (final and long_low)):
            return Judgement(
                COLLAPSING, ", ".join([*evidence, f"4 or fewer since step {self.low_since}"]),
                "Keep method.negative_weight · method.head_width near 15, warm up for 300 steps or more, and train for more "
                "steps or, in a short run, with method.momentum_schedule constant",
            )  # fmt: skip
        if measure is None:
            return self._unwatched(evidence)
        return self._by(measure, evidence)

    def _unwatched(self, evidence: list[str]) -> Judgement:
        """Without any look at what the encoder has learned."""
        if self.accuracy is not None:
            return Judgement(FITTING, f"{self.accuracy:.1%} of the training images are classified correctly")
        said = ", ".join(evidence) or "nothing that shows it was logged"
        return Judgement(UNKNOWN, said, "Give --knn-bank and --knn-test, two sets of labelled images")

    def _by(self, measure: Curve, evidence: list[str]) -> Judgement:
        """By a measure that has been looked at often enough."""
        if measure.fallen:
            said = f"{measure.name} was {measure.best.value:.3f} at step {measure.best.step:,}"
            return Judgement(
                FALLING, ", ".join([*evidence, said]), "Lower training.lr_per_256, or stop at an earlier checkpoint"
            )
        if not measure.risen:
            return self._not_risen(measure, evidence)
        references = self._references() if measure is self.knn else []
        said = ", ".join([*evidence, *map(str, references), *self._fallen_token()])
        slope = measure.per_hundred_steps
        rises = f"still rising {points(slope)} per 100 steps" if slope is not None else ""
        if any(one.counts and one.difference < 0 for one in references):
            more = f"Train longer: it is {rises}" if rises else "Train longer, on more images or with a larger encoder"
            return Judgement(NOT_YET, said, more)
        return Judgement(LEARNING, f"{said}, {rises}" if rises else said)

    def _not_risen(self, measure: Curve, evidence: list[str]) -> Judgement:
        said = ", ".join([*evidence, *self._fallen_token()])
        if measure.unsure:
            wanted = images_for(measure.latest.value) if measure is self.knn else None
            return Judgement(
                TOO_FEW, f"{said}: that may be luck on so few images",
                f"Give --knn-test about {wanted:,} images to see a difference of 5 points" if wanted else "",
            )  # fmt: skip
        if measure is self.retrieval and self.accuracy is not None:
            return self._unwatched(evidence)
        if measure is self.retrieval:
            return Judgement(UNKNOWN, said, "Give --knn-bank and --knn-test, two sets of labelled images")
        least = AT_LEAST * self.reachable
        nothing_left = bool(self.losses) and math.isfinite(least) and statistics.median(self.losses) <= least
        if nothing_left:
            said += f", the loss {self.losses[-1]:.3f} is near the least that its targets allow ({self.reachable:.3f})"
        return Judgement(SLOW, said, "Train for more steps: learning often starts late, after thousands of them")

    @property
    def _evidence(self) -> list[str]:
        """What was logged, in numbers; nothing of what was not."""
        said = [str(curve) for curve in (self.knn, self.retrieval) if curve.looks]
        if said and self.knn.looks and self.images:
            said[0] += f" ({self.images:,} test images)"
        if self.untrained_retrieval is not None:
            said[-1] += f" (an untrained encoder: {self.untrained_retrieval:.3f})"
        if self.rankme:
            said.append(f"RankMe {self.rankme[0]:.1f} → {self.rankme[1]:.1f}")
        if self.rank is not None:
            said.append(f"the targets fill {self.rank:.1f} directions")
        return said

    def _references(self) -> list[Comparison]:
        """The latest kNN beside that of raw pixels and, where the run began with weights, of those and an untrained encoder."""
        now, known = self.knn.latest, dict(self.beside)
        if UNTRAINED in known:
            known[START] = self.knn.first.value
        return [
            apart(name, now.value, now.error, value, self._binomial(value), n=max(1, self.images))
            for name, value in known.items()
        ]

    def _fallen_token(self) -> list[str]:
        """The other token, where it got worse."""
        if not self.other.looks:
            return []
        one, two = self.other.first, self.other.latest
        if two.value - one.value > -max(KNN_POINTS, ERRORS * error_between(one, two)):
            return []
        return [f"{self.other.name} fell from {one.value:.3f} to {two.value:.3f}"]

    def _diverging(self) -> str | None:
        if new := self.skipped[-1] - self.skipped[0]:
            return f"{new} steps were not finite and were skipped"
        if len(self.losses) == LOSSES and (now := statistics.median(self.losses)) > DIVERGED * self.least:
            return f"the loss is {now:.3f} and was {self.least:.3f}"
        return None


def judged(lines: Iterable[Mapping[str, Any]], *, token: Token = "mean", final: bool = True) -> Judgement:
    """The judgement of a run, by default of a finished one."""
    health = Health(token=token)
    for line in lines:
        health.see(line)
    return health.judge(final=final)
