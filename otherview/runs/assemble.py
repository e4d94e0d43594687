"""A run from its parts: everything that the loop is handed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from otherview.config import RunConfig, config_hash
from otherview.data.loader import SampleMaker
from otherview.data.plan import StepPlan
from otherview.data.source import Source, labels_of, names_fingerprint
from otherview.data.spec import open_source
from otherview.distributed import rank, ranks
from otherview.errors import WrongRequest
from otherview.evaluation.knn import OnlineKnn
from otherview.methods.build import build
from otherview.methods.learner import Learner
from otherview.methods.settings import SupervisedSettings
from otherview.training.callbacks import Callback
from otherview.training.device import make_accelerator, prepare_blocks
from otherview.training.state import RunState


def open_watched(bank: str | None, test: str | None, *, every: int) -> tuple[Source, Source] | None:
    """The labelled sources of the online kNN, opened early so that a wrong one is said at once."""
    if bank is None and test is None:
        return None
    if bank is None or test is None:
        raise WrongRequest("--knn-bank and --knn-test belong together: give both or neither")
    if every < 1:
        raise WrongRequest(f"--knn-every {every} is too few: give 1 or more")
    sources = open_source(bank), open_source(test)
    for source, spec in zip(sources, (bank, test), strict=True):
        labels_of(source, spec)
    return sources


def with_classes(config: RunConfig, source: Source, data: str) -> RunConfig:
    """A method that learns from labels is told how many classes the data has; others stay as they are.

    Raises WrongRequest where there are no labels, or more classes than the config says.
    """
    if not isinstance(config.method, SupervisedSettings):
        return config
    found = int(labels_of(source, data).max()) + 1
    if found < 2:
        raise WrongRequest(f"{data} has one class only: supervised pre-training needs two or more")
    asked = config.method.classes or found
    if asked < found:
        raise WrongRequest(f"method.classes {asked} is fewer than the {found} classes of {data}: leave it out")
    return config.model_copy(update={"method": config.method.model_copy(update={"classes": asked})})


def build_learner(config: RunConfig) -> Learner:
    """The method of a config with its weights at the start, and what is done to its blocks."""
    learner = build(config.method, encoder=config.encoder, views=config.views, seed=config.seed)
    prepare_blocks(learner, config.training)
    return learner


def assemble(
    config: RunConfig,
    source: Source,
    plan: StepPlan,
    *,
    out: Path,
    device: torch.device,
    watch: tuple[Source, Source] | None = None,
    knn_every: int = 500,
) -> RunState:
    """Every part of a run, built and handed over."""
    accelerator = make_accelerator(device, config.training, out)
    learner = build_learner(config)
    callbacks: list[Callback] = []
    if watch:
        callbacks.append(OnlineKnn(*watch, every=knn_every, preprocessing=config.preprocessing))
    return RunState(
        learner=learner,
        settings=config.training,
        folder=out,
        plan=replace(plan, ranks=ranks(), rank=rank()),
        maker=SampleMaker(source, learner.views, config.seed, config.preprocessing),
        accelerator=accelerator,
        config_hash=config_hash(config),
        data_fingerprint=names_fingerprint(source),
        track=_tracker(accelerator, config),
        callbacks=callbacks,
    )


def _tracker(accelerator: Accelerator, config: RunConfig) -> Callable[[Mapping[str, float], int], None]:
    """Metrics to the trackers that were asked for; accelerate lets rank 0 alone write."""
    if not config.training.trackers:
        return lambda _metrics, _step: None
    try:
        accelerator.init_trackers("otherview", config={"config": config_hash(config), "recipe": config.recipe})
    except (ImportError, ValueError) as error:
        names = " ".join(config.training.trackers)
        raise WrongRequest(f"training.trackers {names} cannot start ({error}): pip install {names}") from error
    return lambda metrics, step: accelerator.log(dict(metrics), step=step)
