"""otherview: from one view, predict the other.

    import otherview

    otherview.pretrain(otherview.recipe("siamese_im_cpu"), data="photos/", out="runs/first")
    encoder = otherview.load_encoder("runs/first")
    otherview.evaluate.knn("runs/first", train="shapes:5000:val", test="shapes:2000:test")
    otherview.evaluate.knn(otherview.backbone(timm_model), train="shapes:5000:val", test="shapes:2000:test")

Names are handed on lazily, so that importing the package costs nothing.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS_WITH_TENSORS = (
    "geometry", "distributed", "seeding", "data", "views", "nn", "losses", "methods", "training", "weights",
    "evaluation", "dense", "report", "bench",
)  # fmt: skip

if os.environ.get("OTHERVIEW_TYPECHECK") == "1":  # shapes as executed types, in tests
    from jaxtyping import install_import_hook

    install_import_hook([f"otherview.{room}" for room in _ROOMS_WITH_TENSORS], "beartype.beartype")

if TYPE_CHECKING:
    from otherview import evaluate, show
    from otherview.evaluation.backbone import backbone
    from otherview.evaluation.embedding import embed
    from otherview.recipes.registry import recipe
    from otherview.runs.compare import compare
    from otherview.runs.demo import demo
    from otherview.runs.plan import plan
    from otherview.runs.predict import predict
    from otherview.runs.pretrain import pretrain
    from otherview.runs.suggestion import doctor
    from otherview.weights.convert import convert
    from otherview.weights.export import export
    from otherview.weights.names import load_encoder

_HANDED_ON = {
    "backbone": "evaluation.backbone",
    "compare": "runs.compare",
    "convert": "weights.convert",
    "demo": "runs.demo",
    "doctor": "runs.suggestion",
    "embed": "evaluation.embedding",
    "export": "weights.export",
    "load_encoder": "weights.names",
    "plan": "runs.plan",
    "predict": "runs.predict",
    "pretrain": "runs.pretrain",
    "recipe": "recipes.registry",
}
"""Where each public function lives."""

__all__ = [
    "backbone", "compare", "convert", "demo", "doctor", "embed", "evaluate", "export", "load_encoder", "plan", "predict",
    "pretrain", "recipe", "show",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("evaluate", "show"):
        return importlib.import_module(f"otherview.{name}")
    if name not in _HANDED_ON:
        raise AttributeError(f"module 'otherview' has no attribute {name!r}")
    return getattr(importlib.import_module(f"otherview.{_HANDED_ON[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
