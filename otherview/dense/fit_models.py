"""What detection and segmentation share: models fitted one after another, on an encoder and on its controls."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from otherview.data.first_images import median_sides
from otherview.data.loader import StepPlan
from otherview.data.source import Source, first_of
from otherview.dense.dense_defaults import Known, in_words
from otherview.dense.settings import DenseSettings, DetectConfig, SegmentConfig
from otherview.errors import WrongRequest
from otherview.evaluation.result import fit_folder
from otherview.evaluation.split import Split, images_used, settled_images, with_fingerprints
from otherview.launch import launched_rank, launched_ranks, shortened
from otherview.methods.learner import Learner
from otherview.nn.settings import EncoderSettings
from otherview.training.device import compute_on, resolve_device
from otherview.training.fit import Fit, run_fit
from otherview.training.optim import Rate, make_optimiser
from otherview.training.settings import FREE_TO_CHANGE, TrainingSettings
from otherview.weights.names import check_weights, controls_of, load_encoder, named
from otherview.weights.pretrained import Card, PretrainedEncoder

Config = TypeVar("Config", DetectConfig, SegmentConfig)
SHORTENED_STEPS, SHORTENED_IMAGES = 4, 24


@dataclass(frozen=True, kw_only=True)
class DenseFit:
    """How a model is fitted, apart from the model."""

    settings: DenseSettings
    config: DetectConfig | SegmentConfig
    source: Source
    """Training images."""
    protocol: str
    card: Card
    fingerprint: str
    """Names the encoder's weights."""
    images: str
    """Names the training images' bytes and what is where in them."""
    rate: Rate


def check_request(settings: DenseSettings, training: TrainingSettings) -> None:
    """Raise WrongRequest before anything is opened."""
    check_weights(settings.weights)
    fit_folder(settings, "")
    if training.trackers:
        raise WrongRequest("training.trackers are for pretrain only; a fit logs its metrics to metrics.jsonl")
    if given := training.of_a_start:
        raise WrongRequest(f"training.{given[0]} is for pretrain --init only: a fit has layer_decay")
    if settings.pictures < 0:
        raise WrongRequest(f"--pictures {settings.pictures} must be 0 or more")


def load_all(settings: DenseSettings, sources: Sequence[Source]) -> dict[str, PretrainedEncoder]:
    """The encoder, checked against the images, and its controls where asked for; the device is chosen."""
    compute_on(settings)
    loaded = load_encoder(named(settings.weights))
    if (channels := loaded.card.encoder.channels) != 3:
        raise WrongRequest(f"{settings.weights} wants {channels} channels: this is for colour images")
    loaded.card = loaded.card.seeing(settled_images(sources, loaded.card.preprocessing))
    controls = controls_of(settings.weights, loaded.card) if settings.control else {}
    return {"encoder": loaded, **{name: PretrainedEncoder(one, loaded.card) for name, one in controls.items()}}


def settled_config(
    config: Config,
    settings: DenseSettings,
    learned: Source,
    encoder: EncoderSettings,
    *,
    settle: Callable[[Config, Known], Config],
) -> Config:
    """What was asked for, and the rest by the training images and the encoder, which is said; checked."""
    unit = config.training.accumulation * launched_ranks()
    on_gpu = resolve_device(settings.device).type == "cuda"
    known = Known(len(learned), median_sides(learned), encoder, unit, on_gpu)
    config, chosen_here = settle(config, known), not config.recipe
    if chosen_here and launched_rank() == 0:
        print(in_words(config, known), file=sys.stderr)
    if config.batch % unit:
        raise WrongRequest(f"--batch {config.batch} must be a multiple of {unit}: micro-batches of every process")
    config.check(patch_size=encoder.patch_size, depth=encoder.depth)
    return config


def about_fit(settings: DenseSettings, config: DetectConfig | SegmentConfig, learned: Source) -> dict[str, Any]:
    """What the result says of the fit."""
    return {
        "train": settings.train, "test": settings.test, "train_images": len(learned), "fit_recipe": config.recipe,
        "fit_steps": config.steps, "fit_batch": config.batch, "fit_seed": settings.seed,
    }  # fmt: skip


def chosen(source: Source, count: int | None) -> np.ndarray:
    """Indices of the images of a split that are used."""
    return first_of(source, images_used(count, few=SHORTENED_IMAGES))


def compare_splits(
    settings: DenseSettings, learned: tuple[Source, np.ndarray], judged: tuple[Source, np.ndarray]
) -> str:
    """Sixteen hexadecimal digits of the training images' bytes; raises WrongRequest where a test image is among them."""
    unlabelled = torch.zeros(0, dtype=torch.int64)
    splits = Split(*learned, unlabelled), Split(*judged, unlabelled)
    one, _ = with_fingerprints(splits, workers=settings.workers, allow_shared=settings.allow_shared)
    return blake2b("".join(one.fingerprints).encode(), digest_size=8).hexdigest()


def fit_dense(name: str, learner: Learner, fit: DenseFit) -> Path:
    """Fit a learner from its last checkpoint, or from the start, to the end; returns its folder."""
    settings, config = fit.settings, fit.config
    steps = min(config.steps, SHORTENED_STEPS) if shortened() else config.steps
    training = config.training.model_copy(update={"workers": max(settings.workers, config.training.workers)})
    images, batch = len(fit.source), config.batch
    planned = Fit(
        folder=fit_folder(settings, fit.protocol if name == "encoder" else f"{fit.protocol}_{name}"),
        about={
            "protocol": fit.protocol, "weights": fit.fingerprint, "train": settings.train, "images": fit.images,
            "seed": settings.seed, **_deciding(config, steps),
        },
        source=fit.source,
        plan=StepPlan(images, batch, steps, settings.seed, accumulation=training.accumulation),
        settings=training,
        preprocessing=fit.card.preprocessing,
        compute=settings,
    )  # fmt: skip
    run_fit(learner, planned, make_optimiser=make_optimiser, rate=fit.rate)
    return planned.folder


def _deciding(config: DetectConfig | SegmentConfig, steps: int) -> dict[str, Any]:
    content = config.model_dump(mode="json")
    content["training"] = {name: value for name, value in content["training"].items() if name not in FREE_TO_CHANGE}
    return {**content, "steps": steps}
