"""From settings to a learner: the parts are made here and handed in."""

from functools import partial

import torch

from otherview.geometry import PatchGrid
from otherview.losses.objectives import Dense, GlobalDense, Objective
from otherview.methods.settings import SiameseIMSettings
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.ema import cosine_momentum
from otherview.nn.encoder import Encoder
from otherview.nn.heads import Predictor, Projector
from otherview.nn.settings import EncoderSettings
from otherview.seeding import named_seed
from otherview.views.pair import PairViews
from otherview.views.settings import ViewSettings


def build_siamese_im(
    method: SiameseIMSettings, *, encoder: EncoderSettings, views: ViewSettings, seed: int
) -> SiameseIM:
    """The method with freshly initialised parts; the weights depend on the settings and `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, "heads"))
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
