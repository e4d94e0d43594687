"""otherview: from one view, predict the other.

    import otherview

    otherview.pretrain(otherview.recipe("siamese_im_pico_32"), data="photos/", out="runs/first")
    encoder = otherview.load_encoder("runs/first")
    otherview.evaluate.knn("runs/first", train="shapes:5000:val", test="shapes:2000:test")
    otherview.evaluate.knn(otherview.subject(timm_model), train="shapes:5000:val", test="shapes:2000:test")

Names are handed on lazily, so that importing the package costs nothing.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS_WITH_TENSORS = (
    "geometry", "distributed", "seeding", "learner", "data", "views", "nn", "losses", "methods", "training", "weights",
    "evaluation", "report", "bench",
)  # fmt: skip

if os.environ.get("OTHERVIEW_TYPECHECK") == "1":  # shapes as executed types, in tests
    from jaxtyping import install_import_hook

    install_import_hook([f"otherview.{room}" for room in _ROOMS_WITH_TENSORS], "beartype.beartype")

if TYPE_CHECKING:
    from otherview.evaluation.subject import subject
    from otherview.verbs import evaluate
    from otherview.verbs.pretrain import pretrain
    from otherview.verbs.recipes import recipe
    from otherview.verbs.weights import load_encoder

_HANDED_ON = {
    "pretrain": ("otherview.verbs.pretrain", "pretrain"),
    "evaluate": ("otherview.verbs.evaluate", None),
    "load_encoder": ("otherview.verbs.weights", "load_encoder"),
    "recipe": ("otherview.verbs.recipes", "recipe"),
    "subject": ("otherview.evaluation.subject", "subject"),
}

__all__ = ["evaluate", "load_encoder", "pretrain", "recipe", "subject"]


def __getattr__(name: str) -> Any:
    if name not in _HANDED_ON:
        raise AttributeError(f"module 'otherview' has no attribute {name!r}")
    module, attribute = _HANDED_ON[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)
