"""From settings to a learner: the parts are made here and handed in; the weights depend on settings and `seed` alone."""

from functools import partial

import torch

from otherview.geometry import PatchGrid
from otherview.learner import Learner
from otherview.losses.objectives import Dense, GlobalDense, Objective
from otherview.methods.mae import MAE, Decoder
from otherview.methods.moco_v3 import Head, MoCoV3
from otherview.methods.settings import MAESettings, MethodSettings, MoCoV3Settings, SiameseIMSettings
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.ema import cosine_momentum
from otherview.nn.encoder import Encoder
from otherview.nn.heads import Predictor, Projector
from otherview.nn.initialise import seeded
from otherview.nn.settings import EncoderSettings
from otherview.views.pair import PairViews
from otherview.views.settings import ViewSettings
from otherview.views.single import SingleView


def build(method: MethodSettings, *, encoder: EncoderSettings, views: ViewSettings, seed: int) -> Learner:
    """The method that the settings name, with freshly initialised parts."""
    match method:
        case SiameseIMSettings():
            return build_siamese_im(method, encoder=encoder, views=views, seed=seed)
        case MAESettings():
            return build_mae(method, encoder=encoder, views=views, seed=seed)
        case MoCoV3Settings():
            return build_moco_v3(method, encoder=encoder, views=views, seed=seed)


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
    return MAE(encoder=Encoder(encoder, seed=seed), decoder=decoder, view=view)


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
        momentum=partial(cosine_momentum, start=method.momentum),
        temperature=method.temperature,
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
            method.head_width, depth=method.predictor_depth, heads=method.head_heads, norm=method.predictor_norm
        )
        if method.predictor_start == "zero":
            torch.nn.init.zeros_(predictor.head.weight)
    return SiameseIM(
        encoder=Encoder(encoder, seed=seed),
        projector=projector,
        predictor=predictor,
        objective=_objective(method),
        views=PairViews(views, encoder.image_size, PatchGrid(*encoder.grid)),
        momentum=partial(cosine_momentum, start=method.momentum),
    )


def _objective(method: SiameseIMSettings) -> Objective:
    match method.loss:
        case "dense":
            return Dense(method.negative_weight)
        case "global_dense":
            return GlobalDense(method.negative_weight, method.global_weight, method.dense_weight)
