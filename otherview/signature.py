"""One list of parameters for a command and its function: the fields of a settings class. Torch-free.

    @takes(KnnSettings)
    def knn(settings: KnnSettings) -> Scores: ...

    knn("runs/first", train="a/", test="b/")      # the settings' fields, with their defaults; known to type checkers

The command line makes its flags from the same class, so the two cannot differ.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


def takes(settings: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Turn a function of one settings object into a function of the settings' fields."""

    def decorate(work: Callable[[S], R]) -> Callable[P, R]:
        @wraps(work)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return work(settings(*args, **kwargs))

        returned = inspect.signature(work).return_annotation
        call.__signature__ = inspect.signature(settings).replace(return_annotation=returned)  # pyright: ignore
        return call

    return decorate
