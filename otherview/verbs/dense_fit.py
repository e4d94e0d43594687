"""What detection and segmentation share: models fitted one after another, on an encoder and on its untrained twin."""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otherview.errors import WrongRequest
from otherview.training.launch import launched_ranks
from otherview.verbs.fitting import Fit, check_out, fitted
from otherview.verbs.judging import Judging, compute_on, images_used
from otherview.verbs.request import shortened
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from otherview.data.source import Source
    from otherview.dense.settings import DetectConfig, SegmentConfig
    from otherview.learner import Learner
    from otherview.training.schedule import Rate
    from otherview.weights.pretrained import Card, PretrainedEncoder

SHORTENED_STEPS = 4


@dataclass(kw_only=True)
class DenseRequest(Judging):
    """Flags that detection and segmentation share."""

    train: str
    """Images to learn from, with what is where in them (a data SPEC)."""
    test: str
    """Images to be judged on (a data SPEC)."""
    train_images: int | None = None
    """Use only so many training images, spread evenly; default: all."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    allow_shared: bool = False
    """Judge although --train and --test share images."""
    control: bool = True
    """Also fit the untrained encoder, which takes as long again."""
    pictures: int = 4
    """Test images that are drawn with what was predicted beside the truth."""
    seed: int = 0
    """Of the heads, the order of images and everything that is drawn."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How a model is fitted, apart from the model."""

    request: DenseRequest
    config: "DetectConfig | SegmentConfig"
    source: "Source"
    """Training images."""
    protocol: str
    card: "Card"
    content: str
    """Names the encoder's weights."""
    images: str
    """Names the training images' bytes and what is where in them."""
    rate: "Rate"


def check_request(request: DenseRequest, config: "DetectConfig | SegmentConfig") -> None:
    """Raise WrongRequest before anything is opened."""
    check_weights(request.weights)
    check_out(request)
    unit = config.training.accumulation * launched_ranks()
    if config.batch % unit:
        raise WrongRequest(f"--batch {config.batch} must be a multiple of {unit}: micro-batches of every process")
    if config.training.trackers:
        raise WrongRequest("training.trackers are for pretrain: the figures of a fit are in its metrics.jsonl")
    if request.pictures < 0:
        raise WrongRequest(f"--pictures {request.pictures} must be 0 or more")


def load_both(request: DenseRequest, config: "DetectConfig | SegmentConfig") -> "dict[str, PretrainedEncoder]":
    """The encoder, held against the config, and its untrained twin where asked for; the device is chosen."""
    compute_on(request)
    from otherview.nn.encoder import Encoder
    from otherview.verbs.weights import load_encoder
    from otherview.weights.pretrained import PretrainedEncoder

    loaded = load_encoder(request.weights)
    settings = loaded.card.encoder
    if settings.channels != 3:
        raise WrongRequest(f"{request.weights} wants {settings.channels} channels: this is for colour images")
    config.check(patch_size=settings.patch_size, depth=settings.depth)
    twin = {"untrained": PretrainedEncoder(Encoder(settings, seed=loaded.card.seed), loaded.card)}
    return {"encoder": loaded, **(twin if request.control else {})}


def about_fit(request: DenseRequest, config: "DetectConfig | SegmentConfig", learned: "Source") -> dict[str, Any]:
    """What the result says of the fit."""
    return {
        "train": request.train, "test": request.test, "train_images": len(learned), "fit_recipe": config.recipe,
        "fit_steps": config.steps, "fit_batch": config.batch, "fit_seed": request.seed,
    }  # fmt: skip


def chosen(source: "Source", count: int | None) -> np.ndarray:
    """Indices of the images of a side that are used."""
    from otherview.evaluation.features import first_of

    return first_of(source, images_used(count))


def compare_sides(
    request: DenseRequest, learned: "tuple[Source, np.ndarray]", judged: "tuple[Source, np.ndarray]"
) -> str:
    """Sixteen hexadecimal digits of the training images' bytes; raises WrongRequest where a test image is among them."""
    import torch

    from otherview.evaluation.frozen import Side
    from otherview.verbs.judging import read_contents

    unlabelled = torch.zeros(0, dtype=torch.int64)
    sides = Side(*learned, unlabelled), Side(*judged, unlabelled)
    one, _ = read_contents(sides, workers=request.workers, allow_shared=request.allow_shared)
    return blake2b("".join(one.contents).encode(), digest_size=8).hexdigest()


def fit_one(name: str, learner: "Learner", fitting: Fitting) -> Path:
    """Fit a learner from its last checkpoint, or from the start, to the end; returns its folder."""
    from otherview.data.plan import StepPlan
    from otherview.training.optim import make_optimiser

    request, config = fitting.request, fitting.config
    steps = min(config.steps, SHORTENED_STEPS) if shortened() else config.steps
    training = config.training.model_copy(update={"workers": max(request.workers, config.training.workers)})
    images, batch = len(fitting.source), config.batch
    fit = Fit(
        folder=(request.out or Path(request.weights))
        / (fitting.protocol if name == "encoder" else f"{fitting.protocol}_{name}"),
        about={
            "protocol": fitting.protocol, "weights": fitting.content, "train": request.train, "images": fitting.images,
            "seed": request.seed, **_deciding(config, steps),
        },
        source=fitting.source,
        plan=StepPlan(images, batch, steps, request.seed, accumulation=training.accumulation),
        settings=training,
        decoding=fitting.card.look.decoding,
        device=request.device,
        threads=request.threads,
    )  # fmt: skip
    fitted(learner, fit, make_optimiser=make_optimiser, rate=fitting.rate)
    return fit.folder


def _deciding(config: "DetectConfig | SegmentConfig", steps: int) -> dict[str, Any]:
    from otherview.training.settings import FREE_TO_CHANGE

    content = config.model_dump(mode="json")
    content["training"] = {name: value for name, value in content["training"].items() if name not in FREE_TO_CHANGE}
    return {**content, "steps": steps}
