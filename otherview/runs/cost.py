"""What a run will cost: shapes, parameters, memory and a few timed steps; and how many steps fit into a time.

dry_run(settings)                       # writes nothing
within_budget(config, source, …)        # the pace is measured once, the steps are frozen into the run's config
"""

from typing import Any, NamedTuple

from otherview.config import RunConfig
from otherview.data.first_images import settled
from otherview.data.source import Source
from otherview.data.spec import open_aloud
from otherview.distributed import agree, gather_objects, ranks
from otherview.errors import WrongRequest
from otherview.runs.assemble import Start, starting, with_classes
from otherview.runs.choice import Choice, chosen_run, recorded
from otherview.runs.memory import check_room
from otherview.runs.pace import measure, pace_of, plan_of, seconds_of, steps_within
from otherview.runs.settings import PretrainSettings
from otherview.training.device import compute_on, peak_memory_mb
from otherview.weights.names import load_encoder
from otherview.weights.pretrained import PretrainedEncoder

TIMED_STEPS = 3


class Opened(NamedTuple):
    """What is asked for, once it is found to be possible."""

    config: RunConfig
    source: Source
    start: Start | None
    chosen: list[str]
    """Why, where no recipe was given: in lines."""


def dry_run(settings: PretrainSettings) -> dict[str, Any]:
    """Build everything, take a few real steps on real data without keeping them, and extrapolate. Writes nothing.

    With several ranks every one computes its share on its own device; the slowest one counts.
    """
    compute_on(settings)
    return cost_of(opened(settings), settings)


def cost_of(asked: Opened, settings: PretrainSettings) -> dict[str, Any]:
    """The same of a run that was opened already."""
    config, source, device = asked.config, asked.source, compute_on(settings)
    plan = agree(lambda: plan_of(config, source, config.steps_for(len(source))))
    predicted = agree(lambda: check_room(config, device=device, ranks=ranks()))
    learner, step, loading = measure(config, source, plan, device=device, count=TIMED_STEPS)
    pace = pace_of(step, loading, config.training.workers)
    rows, columns = config.encoder.grid
    patches = rows * columns
    masked = config.views.mask.masked_of(patches)
    two_views = config.method.name in ("siamese_im", "moco_v3")
    return {
        "recipe": config.recipe,
        "chosen": asked.chosen,
        "images": len(source),
        "steps": plan.steps,
        "epochs": round(plan.steps / plan.steps_per_epoch, 2),
        "ranks": ranks(),
        "device": str(device),
        "patches": f"{rows}×{columns} = {patches}, {masked} masked for the online encoder",
        "tokens": f"online {1 + patches - masked}" + (f", target {1 + patches}" if two_views else ""),
        "parameters_encoder": sum(p.numel() for p in next(iter(learner.encoders.values())).parameters()),
        "parameters_trained": sum(p.numel() for p in learner.parameters() if p.requires_grad),
        "peak_memory_mb": max(gather_objects(peak_memory_mb(device))),
        "predicted_memory_mb": round(predicted / 2**20),
        "seconds_per_step": round(step, 3),
        "seconds_of_loading_per_step": round(loading, 3),
        "seconds_per_epoch": round(pace * plan.steps_per_epoch, 1),
        "hours_expected": round(pace * plan.steps / 3600, 2),
        "warnings": config.warnings(),
    }


def opened(settings: PretrainSettings) -> Opened:
    """Everything that may be wrong about a request, before a folder is touched; raises WrongRequest.

    The config is complete, has as many steps as fit into the time, and knows the classes of the data and the sizes of the
    weights that it starts from.
    """
    is_whole = settings.config.is_whole
    if is_whole:
        agree(settings.config.check)
    source = agree(lambda: open_aloud(settings.data))
    weights = None if settings.init is None else agree(lambda: load_encoder(settings.init or ""))
    found = Choice(settings.config, [])
    if not is_whole:
        found = chosen_run(settings, source, None if weights is None else weights.card)
    asked = agree(lambda: _seen(found, settings, source, weights))
    if is_whole and settings.time_budget:
        asked = asked._replace(config=within_budget(asked.config, source, settings=settings))
    return asked


def _seen(found: Choice, settings: PretrainSettings, source: Source, weights: PretrainedEncoder | None) -> Opened:
    """What the images and the weights to start from decide."""
    config, start = found.config, None
    config.check()
    preprocessing = settled(source, config.preprocessing._replace(ranges={}), flag="--data")  # of these images alone
    config = config.seeing(preprocessing)
    if weights is not None:
        config, start = starting(config, weights, said_as=settings.init or "")
    else:
        _refuse_without_start(config)
    return Opened(with_classes(config, source, settings.data), source, start, found.said)


def _refuse_without_start(config: RunConfig) -> None:
    """Raise WrongRequest where a config is of a run that starts from weights, and none are given."""
    if config.start_from:
        raise WrongRequest(
            f"this config is of a run that starts from weights ({config.start_from}): give them to --init"
        )
    if given := config.training.of_a_start:
        raise WrongRequest(f"training.{given[0]} is for a run that starts from weights: give --init, or leave it out")


def within_budget(config: RunConfig, source: Source, *, settings: PretrainSettings) -> RunConfig:
    """The config in the steps that fit into `settings.time_budget`, or those of the run that `settings.out` holds already."""
    assert settings.time_budget is not None
    agree(lambda: seconds_of(settings.time_budget or ""))
    if before := recorded(settings):
        return in_steps(config, before.steps or 1)
    return in_steps(config, steps_within(settings.time_budget, config, source, compute=settings))


def in_steps(config: RunConfig, steps: int) -> RunConfig:
    """The config with so many steps; where they are fewer than its own, the warm-up keeps its steps, up to half of them.

    Targets stay on a plateau where the rate climbs too fast, however long the run is (docs/log.md).
    """
    warmup = config.training.warmup
    if config.steps and steps < config.steps:
        warmup = max(warmup, min(warmup * config.steps / steps, 0.5))
    return config.model_copy(update={"steps": steps, "training": config.training.model_copy(update={"warmup": warmup})})
