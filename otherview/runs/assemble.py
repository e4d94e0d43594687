"""A run from its parts: everything that the loop is handed, and the weights that it starts from.

Starting weights are an encoder of ours, or one that was converted, of any image size.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from otherview.config import RunConfig, config_hash
from otherview.data.loader import SampleMaker, StepPlan
from otherview.data.source import Source, labels_of, names_fingerprint
from otherview.data.spec import open_source
from otherview.distributed import rank, ranks
from otherview.errors import WrongRequest
from otherview.evaluation.online import OnlineKnn, OnlineRetrieval
from otherview.geometry import PatchGrid
from otherview.methods.build import build
from otherview.methods.learner import Learner
from otherview.methods.settings import SupervisedSettings
from otherview.nn.encoder import Encoder
from otherview.nn.positions import resampled
from otherview.nn.settings import SIZES_OF_WEIGHTS
from otherview.training.callbacks import Callback
from otherview.training.device import compile_and_checkpoint, make_accelerator
from otherview.training.state import RunState
from otherview.weights.pretrained import PretrainedEncoder, weights_fingerprint

OF_THE_WEIGHTS = *SIZES_OF_WEIGHTS, "positions", "column_first"
"""What a run takes from the weights that it starts from, whatever its recipe says."""
ENCODER_WAITS = 0.1
"""Share of a run in which an encoder that starts from weights keeps still, where nothing else is asked for."""


class Start(NamedTuple):
    """Weights under timm's names, as the run's encoder wants them."""

    state: dict[str, Tensor]
    licence: str
    said: list[str]
    """What was not taken as it is."""

    def into(self, learner: Learner) -> None:
        """Into every encoder of a learner: the online one and the target."""
        for encoder in learner.encoders.values():
            encoder.vit.load_state_dict(self.state)


def starting(config: RunConfig, loaded: PretrainedEncoder, *, said_as: str) -> tuple[RunConfig, Start]:
    """The config of a run that starts from these weights, and the weights; raises WrongRequest where they do not fit."""
    had, wanted = loaded.card.encoder, config.encoder
    if had.channels != wanted.channels:
        raise WrongRequest(
            f"--init {said_as} is for images of {had.channels} channels, the run for {wanted.channels}: give --encoder.channels "
            f"{had.channels} and as many values for --views.mean and --views.std, or other weights"
        )
    adopted = wanted.model_copy(update={name: getattr(had, name) for name in OF_THE_WEIGHTS})
    training = config.training
    if training.encoder_waits is None:
        training = training.model_copy(update={"encoder_waits": ENCODER_WAITS})
    changed = {"encoder": adopted, "training": training, "start_from": weights_fingerprint(loaded.encoder)}
    config = config.model_copy(update=changed)
    config.check()
    state, said = dict(loaded.encoder.vit.state_dict()), list[str]()
    if any(getattr(had, name) != getattr(wanted, name) for name in SIZES_OF_WEIGHTS):
        said.append(
            f"the encoder has the sizes of these weights: {had.width} wide, {had.depth} blocks, {had.heads} heads, patches of "
            f"{had.patch_size} px"
        )
    if had.final_norm and not wanted.final_norm:
        state = {name: value for name, value in state.items() if not name.startswith("norm.")}
        said.append("the norm after the last block is left out: this method has none")
    if wanted.final_norm and not had.final_norm:
        state |= {"norm.weight": torch.ones(had.width), "norm.bias": torch.zeros(had.width)}
        said.append("the norm after the last block starts plain: the weights have none")
    if "pos_embed" in state and had.grid != adopted.grid:
        old, new = PatchGrid(*had.grid), PatchGrid(*adopted.grid)
        before, table = state["pos_embed"].split([1 + had.registers, old.patches], dim=1)
        state["pos_embed"] = torch.cat([before, resampled(table[0], old, new)[None]], 1)
        said.append(f"positions are resampled from {old.rows}×{old.columns} to {new.rows}×{new.columns} patches")
    licence = loaded.card.licence_of_starting_weights
    return config, Start(state, licence, [f"starting from {said_as} ({loaded.card.method}; licence: {licence})", *said])


def open_watched(bank: str | None, test: str | None, *, every: int) -> tuple[Source, Source] | None:
    """The labelled sources of the online kNN, opened early so that a wrong one is said at once."""
    if every < 1:
        raise WrongRequest(f"--knn-every {every} is too few: give 1 or more")
    if bank is None and test is None:
        return None
    if bank is None or test is None:
        raise WrongRequest("--knn-bank and --knn-test belong together: give both or neither")
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
    compile_and_checkpoint(learner, config.training)
    return learner


def assemble(
    config: RunConfig,
    source: Source,
    plan: StepPlan,
    *,
    out: Path,
    device: torch.device,
    look: Callback,
) -> RunState:
    """Every part of a run, built and handed over; `look` shows what it learns."""
    accelerator = make_accelerator(device, config.training, out)
    learner = build_learner(config)
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
        callbacks=[look],
        token=config.token,
    )


def look_of(config: RunConfig, source: Source, watch: tuple[Source, Source] | None, *, every: int) -> Callback:
    """What shows whether the run learns: with labels kNN, else patch retrieval on its own images."""
    untrained = Encoder(config.encoder, seed=config.seed) if config.start_from else None
    if watch is None:
        return OnlineRetrieval(
            source, config.preprocessing, PatchGrid(*config.encoder.grid), every=every, untrained=untrained,
            workers=min(1, config.training.workers),
        )  # fmt: skip
    return OnlineKnn(*watch, config.preprocessing, every=every, untrained=untrained)


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
