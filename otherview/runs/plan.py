"""How far more images or more time would bring an encoder: seven short runs by successive halving, and what follows from them.

    plan(data="photos/", out="runs/plan")

Four numbers of images get a twelfth of the time each in four short runs, the two larger ones twice as long, and all images four
times as long (K. Jamieson and A. Talwalkar, arXiv 1502.07943, with the larger numbers always going on). A part of the images is
held out and judges every run: by kNN where they have labels, else by patch retrieval.
"""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otherview.config import RunConfig
from otherview.data.source import Selected, Source
from otherview.distributed import ranks
from otherview.errors import WrongRequest
from otherview.evaluation.grouping import groups_of, held_out
from otherview.evaluation.online import OnlineKnn, OnlineRetrieval
from otherview.evaluation.split import SPLIT_SEED
from otherview.files import json_lines, only_writer, write_atomically
from otherview.geometry import PatchGrid
from otherview.judgement import apart
from otherview.launch import shortened, stop_requests
from otherview.recipes.by_images import CHOSEN, in_schedule
from otherview.runs.assemble import assemble
from otherview.runs.cost import Opened, in_steps, opened
from otherview.runs.learning_curve import Point, fitted
from otherview.runs.pace import plan_of, seconds_of
from otherview.runs.run_folder import prepare_folder
from otherview.runs.settings import PlanSettings, PretrainSettings
from otherview.signature import takes
from otherview.training.callbacks import Callback
from otherview.training.device import check_threads, compute_on
from otherview.training.loop import train

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the images."""
BUDGET = "1h"
LEAST_STEPS, SHORTENED_STEPS = 40, 8
"""Of the shortest run, where nothing is learned in fewer; of the longest one, where a shortened one is asked for."""
HELD_OUT, LEAST_HELD_OUT, MOST_HELD_OUT = 0.2, 10, 2000
"""A share of the images, and how many of them at least and at most."""
PAIRS = 500
"""Held-out images whose patches are looked for in a second view."""
TIMES = 10
"""How many times the images or the steps are asked about."""


class Arm(NamedTuple):
    """One run."""

    images: int
    steps: int


class Parts(NamedTuple):
    """The images that are trained on, those that judge, and whether they have labels."""

    train: Source
    held: Source
    labelled: bool


def arms_of(images: int, steps: int, *, batch: int) -> list[Arm]:
    """The runs, shortest first: `steps` are those of the longest. Shares with less than a batch are left out."""
    numbers = [round(images * share) for share in SHARES if images * share >= batch]
    halvings = ((steps // 4, numbers), (steps // 2, numbers[-2:]), (steps, numbers[-1:]))
    return [Arm(number, count) for count, some in halvings for number in some]


@takes(PlanSettings)
def plan(settings: PlanSettings) -> dict[str, Any]:
    """Make the runs that are not made yet, judge them, and say what ten times the images or the steps would bring."""
    check_threads(settings.threads)
    compute_on(settings)
    if ranks() > 1:
        raise WrongRequest("plan is for one process: leave torchrun out, or use otherview compare for many runs")
    asked = opened(_as_run(settings))
    parts = _divided(asked.source, settings)
    steps = SHORTENED_STEPS if shortened() else asked.config.steps_for(len(asked.source))
    arms = arms_of(len(parts.train), steps, batch=asked.config.batch)
    _check(arms, parts, asked.config, settings)
    prepare_folder(settings.out, asked.config, data=settings.data, images=len(asked.source), fresh=settings.fresh)
    runs = f"{len(arms)} runs of {arms[0].steps:,} to {steps:,} steps, judged on {len(parts.held):,} images held out"
    print(*asked.chosen, runs, sep="\n", file=sys.stderr)
    with only_writer(settings.out), stop_requests() as stop:
        for number, arm in enumerate(arms, start=1):
            title = f"run {number} of {len(arms)}, {arm.images:,} images"
            _run(arm, asked, parts, settings, title=title, stop=stop)
    return _found(arms, asked.config, parts, settings)


def _as_run(settings: PlanSettings) -> PretrainSettings:
    """The longest of the runs, as it would be asked for."""
    decided = settings.config.is_whole or settings.config.model_fields_set & {"steps", "epochs"}
    budget = settings.time_budget or (None if decided else BUDGET)
    longest = f"{seconds_of(budget) / 3:.1f}s" if budget else None
    return PretrainSettings(
        config=settings.config, data=settings.data, out=settings.out, init=settings.init, time_budget=longest,
        fresh=settings.fresh, device=settings.device, threads=settings.threads,
    )  # fmt: skip


def _check(arms: list[Arm], parts: Parts, config: RunConfig, settings: PlanSettings) -> None:
    """Raise WrongRequest where there is too little of something, before a folder is made."""
    if len(parts.held) < LEAST_HELD_OUT or len({arm.images for arm in arms}) < 2:
        raise WrongRequest(
            f"--data {settings.data} has too few images to leave some out: {len(parts.held)} would judge, and a batch is "
            f"{config.batch}; give more images or a smaller --batch"
        )
    if (least := arms[0].steps) < LEAST_STEPS and not shortened():
        times = math.ceil(LEAST_STEPS / max(1, least))
        raise WrongRequest(
            f"the shortest run would have {least} steps, in which nothing is learned: give {times} times the time"
        )


def _divided(source: Source, settings: PlanSettings) -> Parts:
    """The images in two parts, no group on both sides."""
    labels = [source.label(index) for index in range(len(source))]
    labelled = None not in labels and len(set(labels)) > 1
    kinds = np.asarray(labels if labelled else np.zeros(len(source)), dtype=np.int64)
    groups = groups_of(source, settings.data, by=settings.group_by) if settings.group_by else None
    share = min(HELD_OUT, MOST_HELD_OUT / len(source))
    judged = held_out(kinds, groups, share=share, seed=SPLIT_SEED, names=source.classes)
    train, held = (Selected(source, np.flatnonzero(side)) for side in (~judged, judged))
    return Parts(train, held, labelled)


def _run(
    arm: Arm, asked: Opened, parts: Parts, settings: PlanSettings, *, title: str, stop: Callable[[], bool]
) -> None:
    """Train one of the runs, unless it is done; of a finished one only its log is kept."""
    folder = _folder(arm, settings.out)
    if _last_look(folder, arm, parts):
        return
    in_order = np.random.default_rng(asked.config.seed).permutation(len(parts.train))[: arm.images]
    images = Selected(parts.train, np.sort(in_order))
    config = _shortened(asked, settings.config, arm.steps)
    folder.mkdir(exist_ok=True)
    run = assemble(config, images, plan_of(config, images, arm.steps), out=folder, device=compute_on(settings))
    if asked.start:
        asked.start.into(run.learner)
    run.callbacks, run.judged, run.title, run.asked_to_stop = [_look(config, parts, arm)], False, title, stop
    train(run)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _shortened(asked: Opened, given: RunConfig, steps: int) -> RunConfig:
    """The run in so many steps, with warm-up and momentum for them."""
    if asked.config.recipe == CHOSEN:
        return in_schedule(asked.config, steps, asked=given.model_copy(update={"steps": steps}))
    return in_steps(asked.config, steps)


def _look(config: RunConfig, parts: Parts, arm: Arm) -> Callback:
    if parts.labelled:
        return OnlineKnn(parts.train, parts.held, config.preprocessing, every=arm.steps, query_size=MOST_HELD_OUT)
    grid = PatchGrid(*config.encoder.grid)
    return OnlineRetrieval(parts.held, config.preprocessing, grid, every=arm.steps, images=PAIRS)


def _folder(arm: Arm, out: Path) -> Path:
    return out / f"{arm.images}-images-{arm.steps}-steps"


def _looks(folder: Path, parts: Parts) -> list[dict[str, Any]]:
    """The lines of a run's log that have its score."""
    name = "knn_mean" if parts.labelled else "retrieval"
    return [line for line in json_lines(folder / "metrics.jsonl") if name in line]


def _last_look(folder: Path, arm: Arm, parts: Parts) -> dict[str, Any] | None:
    """What was found at the end of a finished run."""
    return next((line for line in _looks(folder, parts) if line["step"] == arm.steps), None)


def _found(arms: list[Arm], config: RunConfig, parts: Parts, settings: PlanSettings) -> dict[str, Any]:
    """The scores of the runs, and what they say about larger ones; also written to plan.json."""
    name = f"knn_{config.token}" if parts.labelled else "retrieval"
    points = []
    for arm in arms:
        line = _last_look(_folder(arm, settings.out), arm, parts)
        assert line is not None
        points.append(Point(*arm, line[name], _error(line, line[name], parts)))
    before = _looks(_folder(arms[-1], settings.out), parts)[0][name]
    longest = points[-1]
    lead = apart("before training", longest.score, longest.error, before, longest.error, n=len(parts.held))
    found = {
        "score": name, "images": len(parts.train), "held_out": len(parts.held), "before": before,
        "runs": [point._asdict() for point in points],
        "forecasts": _forecasts(points) if lead.counts and lead.difference > 0 else [],
        "learned": str(lead),
        "out": str(settings.out),
    }  # fmt: skip
    write_atomically(settings.out / "plan.json", json.dumps(found, indent=1).encode())
    return found


def _error(line: dict[str, Any], score: float, parts: Parts) -> float:
    return line.get("retrieval_error", math.sqrt(score * (1 - score) / min(len(parts.held), MOST_HELD_OUT)))


def _forecasts(points: list[Point]) -> list[dict[str, Any]]:
    """Ten times the steps, the images, and both, of the longest run."""
    curve, longest = fitted(points), points[-1]
    if curve is None:
        return []
    found = []
    for what, more in (("steps", (1, TIMES)), ("images", (TIMES, 1)), ("images and steps", (TIMES, TIMES))):
        images, steps = longest.images * more[0], longest.steps * more[1]
        within = curve.range_at(images=images, steps=steps)
        found.append({
            "more": what, "images": images, "steps": steps, **within._asdict(), "tells": within.tells,
        })  # fmt: skip
    return found
