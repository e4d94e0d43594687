"""Pictures: what the learner sees, and what an encoder makes of images.

    otherview.show.views(config=otherview.recipe("siamese_im_vit_b16"), data="photos/", out=Path("views.png"))
    otherview.show.attention("runs/first", data="photos/", out=Path("attention.png"))

Each function has the parameters of `otherview show NAME`. Names are handed on lazily: importing costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otherview.evaluation.token_pictures import attention, components, matches, neighbours
    from otherview.report.view_pictures import correspondence, masks, views

__all__ = ["attention", "components", "correspondence", "masks", "matches", "neighbours", "views"]

_OF_VIEWS = ("correspondence", "masks", "views")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'otherview.show' has no attribute {name!r}")
    room = "report.view_pictures" if name in _OF_VIEWS else "evaluation.token_pictures"
    return getattr(importlib.import_module(f"otherview.{room}"), name)


def __dir__() -> list[str]:
    return __all__
