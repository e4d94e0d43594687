"""Comparisons and ablations: a study is rows of configs that differ in one thing each. Torch-free.

study = find_study("compare_cpu")
study.rows()["mae"]              # a RunConfig
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.recipes.one_gpu import rivals_of, siamese_im_cifar10_200ep, siamese_im_imagenette_200ep
from otherview.recipes.rivals import NO_MASK, mae_cpu, moco_v3_cpu, supervised_cpu
from otherview.recipes.siamese_im import short_with_adamw, siamese_im_cpu, siamese_im_demo
from otherview.views.settings import PLAIN, MaskSettings


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it; the first row is what the others are compared with."""

    name: str
    question: str
    rows: Callable[[], dict[str, RunConfig]]
    seeds: tuple[int, ...] = (1, 2)
    """What it is reported on; settings are looked for with seed 0."""


METHODS: dict[str, Callable[[], RunConfig]] = {
    "siamese_im": short_with_adamw,
    "mae": mae_cpu,
    "moco_v3": moco_v3_cpu,
    "supervised": supervised_cpu,
}
Settings = TypeVar("Settings", bound=BaseModel)
Change = Mapping[str, Any]
"""Settings of the run, or of a room: {"batch": 32, "views": {"target_crop": "same"}}."""


def _compare() -> dict[str, RunConfig]:
    """Every method with the steps of the first."""
    steps = short_with_adamw().steps
    return {method: make().model_copy(update={"steps": steps}) for method, make in METHODS.items()}


def _compare_with_muon() -> dict[str, RunConfig]:
    """The same with Muon and in as many steps as SiameseIM's recipe for it, whose crops suit MAE too (docs/log.md)."""
    first = siamese_im_cpu()
    change = {"steps": first.steps, "training": {"optimiser": "muon"}}
    rows = {method: _changed(config, change) for method, config in _compare().items()} | {"siamese_im": first}
    return rows | {"mae": _changed(rows["mae"], {"views": {"crop_share": first.views.crop_share}})}


def _half_as_long() -> RunConfig:
    """short_with_adamw in half the steps, of which the warm-up takes as many."""
    whole = short_with_adamw()
    training = whole.training.model_copy(update={"warmup": 2 * whole.training.warmup})
    return whole.model_copy(update={"steps": (whole.steps or 0) // 2, "training": training})


def _ablation(make: Callable[[], RunConfig], changes: Mapping[str, Change]) -> Callable[[], dict[str, RunConfig]]:
    """A recipe as it is, and rows that change some of its settings; what changes nothing in this recipe is no row."""

    def configs() -> dict[str, RunConfig]:
        rows = {"as it is": make()}
        for name, change in changes.items():
            if (config := _changed(make(), change)) not in rows.values():
                rows[name] = config
        return rows

    return configs


def _trials(method: str, own: Mapping[str, Change]) -> Study:
    """The trials that every method gets before it is compared: the rate, and one setting of its own."""
    rate = _compare()[method].training.lr_per_256
    rates = {
        name: {"training": {"lr_per_256": rate * by}} for name, by in (("half the rate", 0.5), ("twice the rate", 2))
    }
    rows = _ablation(lambda: _compare()[method], {**rates, **own})
    return Study(f"tune_cpu_{method}", "which settings compare_cpu should have", rows, seeds=(0,))


def _changed(config: Settings, change: Mapping[str, Any]) -> Settings:
    """The settings with some exchanged; a mapping exchanges some of a room's."""
    exchanged = {
        name: _changed(getattr(config, name), value) if isinstance(value, Mapping) else value
        for name, value in change.items()
    }
    return config.model_copy(update=exchanged)


SAME, PIXELS = {"target_crop": "same"}, {"target": "pixels"}
NO_COLOUR = {"online_colour": PLAIN, "target_colour": PLAIN}
ABLATIONS: dict[str, tuple[str, dict[str, Change]]] = {
    "views": (
        "do different views and colours matter, and for which target",
        {
            "same crop": {"views": SAME},
            "no colour": {"views": NO_COLOUR},
            "same crop no colour": {"views": SAME | NO_COLOUR},
            "pixels": {"method": PIXELS},
            "pixels same crop": {"method": PIXELS, "views": SAME},
            "pixels same crop no colour": {"method": PIXELS, "views": SAME | NO_COLOUR},
        },
    ),
    "mask": (
        "what masking the online view gives",
        {
            "no mask": {"views": {"mask": NO_MASK}},
            "single patches": {"views": {"mask": {"kind": "random"}}},
            "uniform blocks": {"views": {"mask": {"kind": "uniform"}}},
            "mask a third": {"views": {"mask": {"ratio": 1 / 3}}},
            "mask three fifths": {"views": {"mask": {"ratio": 0.6}}},
            "mask four fifths": {"views": {"mask": {"ratio": 0.8}}},
        },
    ),
    "loss": (
        "dense, global or both, and what UniGrad costs against InfoNCE",
        {
            "global alone": {"method": {"loss": "global"}},
            "global and dense": {"method": {"loss": "global_dense"}},
            "random start": {"method": {"predictor_start": "random"}},
            "info nce": {"method": {"loss": "info_nce", "predictor_start": "random"}},
            "overlap only": {"method": {"overlap_only": True}},
        },
    ),
    "conditioning": (
        "what the predictor has to know of the target view",
        {
            "position alone": {"method": {"relative_position": "position"}},
            "no conditioning": {"method": {"relative_position": "none"}},
            "colours too": {"method": {"condition_on_colour": True}},
        },
    ),
    "heads": (
        "norms and depths of projector and predictor",
        {
            "layer norm": {"method": {"projector_norm": "layer", "predictor_norm": "layer"}},
            "projector a linear": {"method": {"projector_depth": 0}},
            "predictor one block": {"method": {"predictor_depth": 1}},
            "predictor four blocks": {"method": {"predictor_depth": 4}},
            "as wide as the encoder": {"method": {"head_width": 128, "negative_weight": 0.12}},
        },
    ),
    "target": (
        "momentum and patch embedding",
        {
            "constant momentum": {"method": {"momentum_schedule": "constant"}},
            "cosine momentum": {"method": {"momentum_schedule": "cosine"}},
            "no momentum": {"method": {"momentum_schedule": "none"}},
            "trained patch embedding": {"encoder": {"train_patch_embedding": True}},
        },
    ),
    "masks": (
        "several masks for one pass of the target, fewer predicted patches, registers: what came after",
        {
            "two masks": {"views": {"masks_per_image": 2}},
            "four masks": {"views": {"masks_per_image": 4}},
            "two masks half the images": {
                "batch": 32,
                "training": {"lr_per_256": 8e-3},
                "views": {"masks_per_image": 2},
            },
            "four masks a quarter of the images": {
                "batch": 16,
                "training": {"lr_per_256": 16e-3},
                "views": {"masks_per_image": 4},
            },
            "predict a quarter": {"views": {"predict_ratio": 0.25}},
            "four masks predict a quarter": {"views": {"predict_ratio": 0.25, "masks_per_image": 4}},
            "registers": {"encoder": {"registers": 4}},
        },
    ),
}
"""By topic: the question, and what each row changes."""

STUDIES = (
    Study("compare_cpu", "what each kind of learning gives", _compare),
    Study("compare_cpu_muon", "the same with Muon, and SiameseIM's recipe for it", _compare_with_muon),
    Study(
        "imagenette_200ep",
        "what each kind of learning gives at ViT-S's size in 200 epochs of Imagenette, for one GPU",
        lambda: rivals_of(siamese_im_imagenette_200ep()),
    ),
    Study(
        "cifar10_200ep",
        "the same for a small ViT in 200 epochs of CIFAR-10, for one GPU",
        lambda: rivals_of(siamese_im_cifar10_200ep()),
    ),
    _trials("siamese_im", {"mask three fifths": {"views": {"mask": {"ratio": 0.6}}}}),
    _trials("mae", {"mask half": {"views": {"mask": MaskSettings(kind="random", ratio=0.5)}}}),
    _trials("moco_v3", {"cosine momentum": {"method": {"momentum_schedule": "cosine"}}}),
    _trials("supervised", {"no colour": {"views": {"online_colour": PLAIN}}}),
    *(
        Study(f"ablate_{images}_{topic}", question, _ablation(make, rows))
        for images, make in (("cpu", _half_as_long), ("drawn", siamese_im_demo))
        for topic, (question, rows) in ABLATIONS.items()
    ),
)


def find_study(name: str) -> Study:
    """The study of that name; raises WrongRequest that lists what there is."""
    known = {study.name: study for study in STUDIES}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "there are: " + ", ".join(known)
        raise WrongRequest(f"there is no study {name!r}: {hint}")
    return known[name]
