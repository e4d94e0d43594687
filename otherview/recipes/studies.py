"""Comparisons and ablations: a study is rows of configs that differ in one thing each. Torch-free.

study = find_study("compare_pico")
study.rows()["mae"]              # a RunConfig
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.recipes.rivals import NOTHING_HIDDEN, mae_pico_32, moco_v3_pico_32, supervised_pico_32
from otherview.recipes.siamese_im import siamese_im_pico_32
from otherview.views.settings import PLAIN, MaskSettings

STEPS = 2500
"""Of every row: about 30 minutes on one CPU thread for Siamese Image Modeling."""


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it; the first row is what the others are compared with."""

    name: str
    question: str
    rows: Callable[[], dict[str, RunConfig]]


def _compare() -> dict[str, RunConfig]:
    made = (siamese_im_pico_32, mae_pico_32, moco_v3_pico_32, supervised_pico_32)
    return {make.__name__.removesuffix("_pico_32"): make().model_copy(update={"steps": STEPS}) for make in made}


Change = Mapping[str, Mapping[str, Any]]
"""Settings by room: {"views": {"other_crop": "seen"}}."""


def _ablation(make: Callable[[], RunConfig] = siamese_im_pico_32, **rows: Change) -> Callable[[], dict[str, RunConfig]]:
    """A recipe as it is, and rows that change some of its settings."""

    def configs() -> dict[str, RunConfig]:
        pico = make().model_copy(update={"steps": STEPS})
        return {"as it is": pico} | {name.replace("_", " "): _changed(pico, change) for name, change in rows.items()}

    return configs


def _trials(make: Callable[[], RunConfig], **own: Change) -> Study:
    """The trials that every method gets before it is compared: the rate, and one setting of its own."""
    rate = make().training.lr_per_256
    rates = {
        name: {"training": {"lr_per_256": rate * by}} for name, by in (("half_the_rate", 0.5), ("twice_the_rate", 2))
    }
    name = make.__name__.removesuffix("_pico_32")
    return Study(f"tune_pico_{name}", "which settings compare_pico should have", _ablation(make, **rates, **own))


def _changed(config: RunConfig, change: Change) -> RunConfig:
    rooms = {room: getattr(config, room).model_copy(update=dict(settings)) for room, settings in change.items()}
    return config.model_copy(update=rooms)


def _mask(**settings: Any) -> dict[str, MaskSettings]:
    return {"mask": siamese_im_pico_32().views.mask.model_copy(update=settings)}


SAME, PIXELS = {"other_crop": "seen"}, {"target": "pixels"}
NO_COLOUR = {"seen_colour": PLAIN, "other_colour": PLAIN}
STUDIES = (
    Study("compare_pico", "what each kind of learning gives", _compare),
    _trials(siamese_im_pico_32, a_third_hidden={"views": _mask(hidden=21)}),
    _trials(mae_pico_32, half_hidden={"views": {"mask": MaskSettings(kind="random", hidden=32)}}),
    _trials(moco_v3_pico_32, slower_target={"method": {"momentum": 0.996}}),
    _trials(supervised_pico_32, no_colour={"views": {"seen_colour": PLAIN}}),
    Study(
        "ablate_pico_views",
        "do different views and colours matter, and for which target",
        _ablation(
            same_crop={"views": SAME},
            no_colour={"views": NO_COLOUR},
            same_crop_no_colour={"views": SAME | NO_COLOUR},
            pixels={"method": PIXELS},
            pixels_same_crop={"method": PIXELS, "views": SAME},
            pixels_same_crop_no_colour={"method": PIXELS, "views": SAME | NO_COLOUR},
        ),
    ),
    Study(
        "ablate_pico_mask",
        "what hiding patches of the seen view gives",
        _ablation(
            nothing_hidden={"views": {"mask": NOTHING_HIDDEN}},
            single_patches={"views": _mask(kind="random")},
            uniform_blocks={"views": _mask(kind="uniform")},
            a_third_hidden={"views": _mask(hidden=21)},
            four_fifths_hidden={"views": _mask(hidden=51)},
        ),
    ),
    Study(
        "ablate_pico_loss",
        "dense, global or both, and what UniGrad costs against InfoNCE",
        _ablation(
            global_alone={"method": {"loss": "global"}},
            global_and_dense={"method": {"loss": "global_dense"}},
            info_nce={"method": {"loss": "info_nce"}},
            overlap_only={"method": {"overlap_only": True}},
        ),
    ),
    Study(
        "ablate_pico_told",
        "what the predictor has to know of the other view",
        _ablation(
            place_alone={"method": {"relation": "without_scale"}},
            nothing={"method": {"relation": "untold"}},
            colours_too={"method": {"tell_colour": True}},
        ),
    ),
    Study(
        "ablate_pico_heads",
        "norms and depths of projector and predictor",
        _ablation(
            layer_norm={"method": {"projector_norm": "layer", "predictor_norm": "layer"}},
            projector_a_linear={"method": {"projector_depth": 0}},
            predictor_one_block={"method": {"predictor_depth": 1}},
            predictor_four_blocks={"method": {"predictor_depth": 4}},
        ),
    ),
    Study(
        "ablate_pico_target",
        "momentum and patch embedding",
        _ablation(
            constant_momentum={"method": {"momentum_schedule": "constant"}},
            no_momentum={"method": {"momentum_schedule": "none"}},
            trained_patch_embedding={"encoder": {"train_patch_embedding": True}},
        ),
    ),
    Study(
        "ablate_pico_masks",
        "several masks for one pass of the target, fewer questions, registers: what came after",
        _ablation(
            two_masks={"views": _mask(count=2)},
            four_masks={"views": _mask(count=4)},
            a_quarter_asked={"views": {"asked": 0.25}},
            four_masks_a_quarter_asked={"views": {"asked": 0.25} | _mask(count=4)},
            registers={"encoder": {"registers": 4}},
        ),
    ),
)


def find_study(name: str) -> Study:
    """The study of that name; raises WrongRequest that lists what there is."""
    known = {study.name: study for study in STUDIES}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "there are: " + ", ".join(known)
        raise WrongRequest(f"no study is called {name!r}: {hint}")
    return known[name]
