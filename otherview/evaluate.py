"""How good is an encoder: every protocol, next to the untrained encoder and raw pixels.

    otherview.evaluate.knn("runs/first", train="labelled/train", test="labelled/test")
    otherview.evaluate.linear(otherview.backbone(timm_model), train="labelled/train", test="labelled/test")

Each function has the parameters of `otherview evaluate NAME`. Names are handed on lazily: importing costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otherview.dense.detection import detect
    from otherview.dense.segmentation import segment
    from otherview.evaluation.few_shot import few_shot
    from otherview.evaluation.finetune import finetune
    from otherview.evaluation.knn import knn
    from otherview.evaluation.linear import linear
    from otherview.evaluation.linear_probe import linear_probe
    from otherview.evaluation.linear_segment import linear_segment
    from otherview.evaluation.retrieval import retrieval
    from otherview.evaluation.robustness import robustness

__all__ = [
    "detect", "few_shot", "finetune", "knn", "linear", "linear_probe", "linear_segment", "retrieval", "robustness",
    "segment",
]  # fmt: skip

_ELSEWHERE = {"detect": "dense.detection", "segment": "dense.segmentation"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'otherview.evaluate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"otherview.{_ELSEWHERE.get(name, f'evaluation.{name}')}"), name)


def __dir__() -> list[str]:
    return __all__
