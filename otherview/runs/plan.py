"""How far more images or more time would bring an encoder: seven short runs by successive halving, and what follows from them.

    plan(data="photos/", out="runs/plan")

Four numbers of images share a third of the time in four short runs, the two larger ones the next third in runs twice as long, and
all images have the last one (K. Jamieson and A. Talwalkar, arXiv 1502.07943, with the larger numbers always going on). A part of
the images is held out and judges every run: by kNN where they have labels, else by patch retrieval.
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
from otherview.data.source import Selected, Source, names_fingerprint
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
HELD_OUT, LEAST_HELD_OUT, MOST_JUDGED, MOST_PAIRS = 0.2, 10, 2000, 500
"""A share of the images, the fewest that judge, and the most that kNN and patch retrieval look at."""
TIMES = 10
"""How many times the images or the steps are asked about."""


class Arm(NamedTuple):
    """One run."""

    images: int
    steps: int


class Parts(NamedTuple):
    """The images that are trained on, in the order in which shares of them are taken, and those that judge."""

    train: Source
    order: np.ndarray
    held: Source
    labelled: bool

    @property
    def score(self) -> str:
        """What the judging measure's lines in a run's log have."""
        return "knn_mean" if self.labelled else "retrieval"


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
    parts = _divided(asked, settings)
    steps = SHORTENED_STEPS if shortened() else asked.config.steps_for(len(parts.train))
    asked = asked._replace(config=asked.config.model_copy(update={"steps": steps}))
    arms = arms_of(len(parts.train), steps, batch=asked.config.batch)
    _check(arms, parts, asked.config, settings)
    _, said = prepare_folder(
        settings.out, asked.config, data=settings.data, images=len(asked.source), fresh=settings.fresh
    )
    _check_question(settings, parts)
    chosen = [line for line in asked.chosen if not line.startswith("steps ")]
    runs = f"{len(arms)} runs of {arms[0].steps:,} to {steps:,} steps, judged on {len(parts.held):,} images held out"
    started = asked.start.said if asked.start else []
    print(*said, *chosen, *started, *asked.config.warnings(), runs, sep="\n", file=sys.stderr)
    with only_writer(settings.out), stop_requests() as stop:
        for number, arm in enumerate(arms, start=1):
            title = f"run {number} of {len(arms)}, {arm.images:,} images"
            _run(arm, asked, parts, settings, title=title, stop=stop)
    return _found(arms, asked.config, parts, settings)


def _budget(settings: PlanSettings) -> str | None:
    """The time of all runs together; None where steps or epochs of the longest one are given."""
    decided = settings.config.is_whole or settings.config.model_fields_set & {"steps", "epochs"}
    return settings.time_budget or (None if decided else BUDGET)


def _as_run(settings: PlanSettings) -> PretrainSettings:
    """The longest of the runs, as it would be asked for."""
    budget = _budget(settings)
    longest = f"{max(1, round(seconds_of(budget) / 3))}s" if budget else None
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
        more = f"{times} times the --time-budget" if _budget(settings) else f"--steps {4 * LEAST_STEPS} or more"
        raise WrongRequest(f"the shortest run would have {least} steps, in which nothing is learned: give {more}")


def _check_question(settings: PlanSettings, parts: Parts) -> None:
    """Raise WrongRequest where the folder's runs have another length or other images; its config is compared before."""
    path = settings.out / "question.json"
    images = f"{names_fingerprint(parts.train)} {names_fingerprint(parts.held)}"
    asked = {"--time-budget": _budget(settings), "--group-by": settings.group_by, "--data": images}
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else asked
    for flag, value in asked.items():
        if before[flag] != value:
            raise WrongRequest(
                f"--out {settings.out} holds runs of another {flag}: give that one to continue, --fresh, or another --out"
            )
    write_atomically(path, json.dumps(asked).encode())


def _divided(asked: Opened, settings: PlanSettings) -> Parts:
    """The images in two parts, no group on both sides; shares of them are taken by whole groups."""
    source = asked.source
    labels = [source.label(index) for index in range(len(source))]
    groups = groups_of(source, settings.data, by=settings.group_by) if settings.group_by else None
    if groups is not None and len(set(groups)) < 2:
        raise WrongRequest(f"--group-by {settings.group_by} finds one group only: there is none to hold out")
    share = min(HELD_OUT, MOST_JUDGED / len(source))
    judged = held_out(np.zeros(len(source), dtype=np.int64), groups, share=share, seed=SPLIT_SEED)
    kept = np.flatnonzero(~judged)
    rng = np.random.default_rng(asked.config.seed)
    if groups is None:
        order = rng.permutation(len(kept))
    else:
        _, members = np.unique(np.asarray(groups)[kept], return_inverse=True)
        order = np.argsort(rng.permutation(members.max() + 1)[members], kind="stable")
    labelled = None not in labels and len(set(labels)) > 1
    return Parts(Selected(source, kept), order, Selected(source, np.flatnonzero(judged)), labelled)


def _run(
    arm: Arm, asked: Opened, parts: Parts, settings: PlanSettings, *, title: str, stop: Callable[[], bool]
) -> None:
    """Train one of the runs, unless it is done; of a finished one only its log is kept."""
    folder = _folder(arm, settings.out)
    if _looks(folder, parts).get(arm.steps):
        return
    images = Selected(parts.train, np.sort(parts.order[: arm.images]))
    config = _shortened(asked.config, settings.config, arm.steps)
    folder.mkdir(exist_ok=True)
    steps, look = plan_of(config, images, arm.steps), _look(config, parts, arm)
    run = assemble(config, images, steps, out=folder, device=compute_on(settings), look=look)
    if asked.start:
        asked.start.into(run.learner)
    run.judged, run.title, run.asked_to_stop = False, title, stop
    train(run)
    if not _looks(folder, parts).get(arm.steps):
        raise WrongRequest(f"the images of {settings.data} that were held out cannot be read: see otherview doctor")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _shortened(config: RunConfig, given: RunConfig, steps: int) -> RunConfig:
    """The run in so many steps, with warm-up and momentum for them where they were not given."""
    if config.recipe != CHOSEN:
        return in_steps(config, steps)
    kept = {name: getattr(given, name) for name in given.model_fields_set & {"method", "training"}}
    return in_schedule(config, steps, asked=RunConfig.model_validate({**kept, "steps": steps}))


def _look(config: RunConfig, parts: Parts, arm: Arm) -> Callback:
    if parts.labelled:
        return OnlineKnn(parts.train, parts.held, config.preprocessing, every=arm.steps, query_size=MOST_JUDGED)
    grid, workers = PatchGrid(*config.encoder.grid), min(1, config.training.workers)
    return OnlineRetrieval(parts.held, config.preprocessing, grid, every=arm.steps, images=MOST_PAIRS, workers=workers)


def _folder(arm: Arm, out: Path) -> Path:
    return out / f"{arm.images}-images-{arm.steps}-steps"


def _looks(folder: Path, parts: Parts) -> dict[int, dict[str, Any]]:
    """What was found of a run, by step."""
    return {line["step"]: line for line in json_lines(folder / "metrics.jsonl") if parts.score in line}


def _found(arms: list[Arm], config: RunConfig, parts: Parts, settings: PlanSettings) -> dict[str, Any]:
    """The scores of the runs, and what they say about larger ones; also written to plan.json."""
    name = f"knn_{config.token}" if parts.labelled else "retrieval"
    judges = min(len(parts.held), MOST_JUDGED if parts.labelled else MOST_PAIRS)
    looks = [_looks(_folder(arm, settings.out), parts) for arm in arms]
    points = [
        Point(*arm, look[arm.steps][name], _error(look[arm.steps], name, judges))
        for arm, look in zip(arms, looks, strict=True)
    ]
    longest, first = points[-1], looks[-1][0]
    before = first[name], _error(first, name, judges)
    lead = apart("the encoder before training", longest.score, longest.error, *before, n=judges)
    found = {
        "score": name, "images": len(parts.train), "judged_on": judges, "before": before[0],
        "runs": [point._asdict() for point in points],
        "forecasts": _forecasts(points) if lead.counts and lead.difference > 0 else [],
        "learned": str(lead),
        "remedy": f"give more {'--time-budget' if _budget(settings) else '--steps'}, with another --out",
        "out": str(settings.out),
    }  # fmt: skip
    write_atomically(settings.out / "plan.json", json.dumps(found, indent=1).encode())
    return found


def _error(line: dict[str, Any], name: str, judges: int) -> float:
    """The standard error of a score; an accuracy's has one more right and one more wrong answer, so that it is never 0."""
    if "retrieval_error" in line:
        return line["retrieval_error"]
    share = (line[name] * judges + 1) / (judges + 2)
    return math.sqrt(share * (1 - share) / judges)


def _forecasts(points: list[Point]) -> list[dict[str, Any]]:
    """Ten times the steps, the images, and both, of the longest run."""
    curve, longest, found = fitted(points), points[-1], list[dict[str, Any]]()
    assert curve is not None  # five runs at least, of two numbers of images and three of steps
    for what, more in (("steps", (1, TIMES)), ("images", (TIMES, 1)), ("images and steps", (TIMES, TIMES))):
        images, steps = longest.images * more[0], longest.steps * more[1]
        within = curve.range_at(images=images, steps=steps)
        found.append({"more": what, "images": images, "steps": steps, **within._asdict(), "tells": within.tells})
    return found
