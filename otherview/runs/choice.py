"""The config of a request that names no recipe: rules (recipes/by_images.py), and what only this machine can say.

    found = chosen_run(settings, source)
    found.config, found.said                  # everything that decides the run, and why, in five lines

A run that the folder holds already stays what it was.
"""

from typing import NamedTuple

import torch

from otherview.config import RunConfig, filled, load_config
from otherview.data.image import Preprocessing
from otherview.data.ranges import with_ranges
from otherview.data.source import Source
from otherview.data.survey import channels_of, survey
from otherview.data.workers import usable_cores
from otherview.distributed import agree, computed_by_first, from_first, ranks
from otherview.recipes.by_images import (
    Situation,
    budget_for,
    chosen,
    in_schedule,
    in_words,
    smaller,
    steps_at_most,
)
from otherview.runs.memory import at_once, fits, free_memory, halved
from otherview.runs.pace import plan_of, steps_within
from otherview.runs.settings import PretrainSettings
from otherview.training.device import compute_on
from otherview.weights.pretrained import Card


class Choice(NamedTuple):
    """What is run, and why."""

    config: RunConfig
    said: list[str]


def recorded(settings: PretrainSettings) -> RunConfig | None:
    """The config of the run that `settings.out` holds and that is continued; None where one begins."""
    known = settings.out / "config.yaml"
    return agree(lambda: load_config(known)) if from_first(known.exists() and not settings.fresh) else None


def chosen_run(settings: PretrainSettings, source: Source, weights: Card | None) -> Choice:
    """What was asked for, completed; `weights` are those to start from. Raises WrongRequest where it cannot be."""
    asked = settings.config
    if before := recorded(settings):
        fresh_start = before.model_copy(update={"start_from": ""})
        return Choice(filled(fresh_start, _without_steps(asked, settings.time_budget)), [])
    situation = agree(lambda: situation_of(settings, source, weights))
    budget = _budget(settings, situation)
    config, steps, said = _tried(situation, settings, source, budget)
    while budget and (less := smaller(situation, steps=steps)):
        situation = less
        config, steps, said = _tried(situation, settings, source, budget)
    config = in_schedule(config, steps, asked=_without_steps(asked, budget))
    lines = in_words(config, situation, asked=asked, total=len(source), budget=budget)
    return Choice(config, [*lines, *said])


def situation_of(settings: PretrainSettings, source: Source, weights: Card | None) -> Situation:
    """The images, the machine and the weights that a choice goes by."""
    asked, on_gpu = settings.config, compute_on(settings).type in ("cuda", "xpu")
    wanted = Preprocessing(channels=asked.encoder.channels, levels=asked.views.levels)
    channels = asked.encoder.channels if "channels" in asked.encoder.model_fields_set else channels_of(source, wanted)
    seen = survey(source, preprocessing=with_ranges(source, wanted._replace(channels=channels)))
    situation = Situation(
        images=seen.different, sides=seen.sides, on_gpu=on_gpu, cores=usable_cores(), ranks=ranks(), channels=channels,
        mean=seen.mean, std=seen.std,
    )  # fmt: skip
    if weights is None:
        return situation
    return situation._replace(weights=weights.encoder, mean=weights.mean, std=weights.std)


def _tried(
    situation: Situation, settings: PretrainSettings, source: Source, budget: str | None
) -> tuple[RunConfig, int, list[str]]:
    """The config that fits the memory, the steps of the run, and what had to be changed while a few of them were tried."""
    wanted = chosen(situation, asked=settings.config)
    agree(lambda: (wanted.check(), plan_of(wanted, source, 1)))
    config = computed_by_first(lambda: _in_memory(wanted, settings))
    said: list[str] = []
    most = steps_at_most(situation.images, batch=config.batch)
    while True:
        try:
            if budget is None:
                steps = config.steps_for(len(source))
            else:
                steps = min(most, steps_within(budget, config, source, compute=settings))
            return config, steps, said
        except torch.OutOfMemoryError:
            share, less = at_once(config, ranks=1), next(halved(config, ranks=1), None)
            if ranks() > 1 or less is None:  # the other processes of a job would wait for this one
                raise
            config = less
            said.append(f"out of memory with {share} images at once: {share // 2} at once, one part after another")


def _in_memory(config: RunConfig, settings: PretrainSettings) -> RunConfig:
    """In as few parts as the free memory takes; the smallest ones where none fit, and `check_room` says so."""
    if "accumulation" in settings.config.training.model_fields_set:
        return config
    device = compute_on(settings)
    free = free_memory(device)
    for tried in (config, *halved(config, ranks=ranks())):
        config = tried
        if fits(config, device=device, ranks=ranks(), free=free):
            break
    return config


def _budget(settings: PretrainSettings, situation: Situation) -> str | None:
    """The time that a run may take; None where steps or epochs are given instead."""
    if settings.time_budget:
        return settings.time_budget
    given = settings.config.model_fields_set & {"steps", "epochs"}
    return None if given else budget_for(on_gpu=situation.on_gpu)


def _without_steps(asked: RunConfig, budget: str | None) -> RunConfig:
    """A time decides instead of the steps that were given beside it."""
    if budget is None:
        return asked
    return type(asked).model_validate({name: getattr(asked, name) for name in asked.model_fields_set - {"steps"}})
