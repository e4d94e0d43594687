"""From settings to a learner: the parts are made here and handed in; the weights depend on settings and `seed` alone."""

from collections.abc import Callable
from functools import partial

import torch

from otherview.geometry import PatchGrid
from otherview.losses.objectives import Dense, DenseInfoNCE, Global, GlobalDense, MeanSquare, Objective
from otherview.methods.learner import Learner
from otherview.methods.mae import MAE, Decoder
from otherview.methods.moco_v3 import Head, MoCoV3
from otherview.methods.settings import (
    MAESettings,
    MethodSettings,
    MoCoV3Settings,
    SiameseIMSettings,
    SupervisedSettings,
)
from otherview.methods.siamese_im import SiameseIM
from otherview.methods.supervised import Supervised
from otherview.methods.target import EMATarget, PixelTarget, constant_momentum, cosine_momentum
from otherview.nn.encoder import Encoder
from otherview.nn.heads import Branch, ClassHead, Predictor, Projector
from otherview.nn.initialise import seeded
from otherview.nn.positions import PositionAndColour, no_position, position_and_scale, position_only
from otherview.nn.settings import EncoderSettings
from otherview.views.colour import COLOUR_NUMBERS
from otherview.views.settings import ViewSettings
from otherview.views.transforms import LabelledViews, PairViews, SingleView


def build(method: MethodSettings, *, encoder: EncoderSettings, views: ViewSettings, seed: int) -> Learner:
    """The method that the settings name, with freshly initialised parts."""
    match method:
        case SiameseIMSettings():
            return build_siamese_im(method, encoder=encoder, views=views, seed=seed)
        case MAESettings():
            return build_mae(method, encoder=encoder, views=views, seed=seed)
        case MoCoV3Settings():
            return build_moco_v3(method, encoder=encoder, views=views, seed=seed)
        case SupervisedSettings():
            return build_supervised(method, encoder=encoder, views=views, seed=seed)


def build_mae(method: MAESettings, *, encoder: EncoderSettings, views: ViewSettings, seed: int) -> MAE:
    """Masked autoencoder."""
    with seeded(seed, "heads"):
        decoder = Decoder(
            encoder.width,
            method.decoder_width,
            depth=method.decoder_depth,
            heads=method.decoder_heads,
            values=encoder.channels * encoder.patch_size**2,
        )
    view = SingleView(views, encoder.image_size, PatchGrid(*encoder.grid))
    return MAE(
        encoder=Encoder(encoder, seed=seed), decoder=decoder, view=view, normalise_pixels=method.normalise_pixels
    )


def build_moco_v3(method: MoCoV3Settings, *, encoder: EncoderSettings, views: ViewSettings, seed: int) -> MoCoV3:
    """MoCo-v3."""
    with seeded(seed, "heads"):
        projector = Head(encoder.width, method.hidden_width, method.hidden_width, method.output_width)
        predictor = Head(method.output_width, method.hidden_width, method.output_width)
    return MoCoV3(
        encoder=Encoder(encoder, seed=seed),
        projector=projector,
        predictor=predictor,
        views=PairViews(views, encoder.image_size, PatchGrid(*encoder.grid)),
        momentum=_momentum(method),
        temperature=method.temperature,
    )


def build_supervised(
    method: SupervisedSettings, *, encoder: EncoderSettings, views: ViewSettings, seed: int
) -> Supervised:
    """Supervised pre-training; how many classes there are must be known."""
    assert method.classes is not None, "method.classes is filled in from the data"
    with seeded(seed, "heads"):
        head = ClassHead(encoder.width, method.classes)
    view = SingleView(views, encoder.image_size, PatchGrid(*encoder.grid))
    return Supervised(
        encoder=Encoder(encoder, seed=seed), head=head, views=LabelledViews(view), smoothing=method.smoothing
    )


def build_siamese_im(
    method: SiameseIMSettings, *, encoder: EncoderSettings, views: ViewSettings, seed: int
) -> SiameseIM:
    """Siamese Image Modeling."""
    with seeded(seed, "heads"):
        projector = Projector(
            encoder.width,
            method.head_width,
            depth=method.projector_depth,
            heads=method.head_heads,
            norm=method.projector_norm,
        )
        predictor = Predictor(
            method.head_width,
            depth=method.predictor_depth,
            heads=method.head_heads,
            norm=method.predictor_norm,
            position=PositionAndColour(method.head_width, numbers=COLOUR_NUMBERS)
            if method.condition_on_colour
            else None,
            values=encoder.channels * encoder.patch_size**2 if method.target == "pixels" else None,
        )
        if method.predictor_start == "zero":
            torch.nn.init.zeros_(predictor.head.weight)
    online = Branch(Encoder(encoder, seed=seed), projector)
    return SiameseIM(
        online=online,
        target=PixelTarget(encoder.patch_size) if method.target == "pixels" else EMATarget(online, _momentum(method)),
        predictor=predictor,
        objective=_objective(method),
        views=PairViews(views, encoder.image_size, PatchGrid(*encoder.grid)),
        relative_position={"position_and_scale": position_and_scale, "position": position_only, "none": no_position}[
            method.relative_position
        ],
        overlap_only=method.overlap_only,
    )


def _momentum(method: SiameseIMSettings | MoCoV3Settings) -> Callable[[float], float]:
    match method.momentum_schedule:
        case "cosine":
            return partial(cosine_momentum, start=method.momentum)
        case "constant":
            return partial(constant_momentum, always=method.momentum)
        case "none":
            return partial(constant_momentum, always=0.0)


def _objective(method: SiameseIMSettings) -> Objective:
    if method.target == "pixels":
        return MeanSquare()
    match method.loss:
        case "dense":
            return Dense(method.negative_weight)
        case "global_dense":
            return GlobalDense(method.negative_weight, method.global_weight, method.dense_weight)
        case "global":
            return Global(method.negative_weight)
        case "info_nce":
            return DenseInfoNCE(method.temperature)
