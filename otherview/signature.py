"""One list of parameters for a command and its function: the fields of a settings class. Torch-free.

    @takes(KnnSettings)
    def knn(settings: KnnSettings) -> Scores: ...

    knn("runs/first", train="a/", test="b/")      # the settings' fields, with their defaults; known to type checkers

The command line makes its flags from the same class, so the two cannot differ. Paths may be given as strings, and SPECs
as paths.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast, get_args, get_type_hints

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


def takes(settings: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Turn a function of one settings object into a function of the settings' fields."""

    def decorate(work: Callable[[S], R]) -> Callable[P, R]:
        asked, make = inspect.signature(settings), cast(Callable[..., S], settings)

        @wraps(work)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return work(make(**_with_paths(asked.bind(*args, **kwargs).arguments, settings)))

        returned = inspect.signature(work).return_annotation
        call.__signature__ = asked.replace(return_annotation=returned)  # pyright: ignore
        return call

    return decorate


def _with_paths(arguments: Mapping[str, Any], settings: Callable[..., Any]) -> dict[str, Any]:
    """Strings where paths are meant become paths, and paths where strings are meant strings."""
    hints = get_type_hints(settings)
    return {name: _taken(value, _kinds(hints.get(name, Any))) for name, value in arguments.items()}


def _kinds(hint: Any) -> set[Any]:
    """The types that a hint is made of."""
    return {hint}.union(*(_kinds(part) for part in get_args(hint)))


def _taken(value: Any, kinds: set[Any]) -> Any:
    if isinstance(value, list | tuple):
        found = [_taken(one, kinds) for one in value]
        return type(value)(found) if any(a is not b for a, b in zip(found, value, strict=True)) else value
    if isinstance(value, str) and Path in kinds and str not in kinds:
        return Path(value)
    return os.fspath(value) if isinstance(value, os.PathLike) and str in kinds and Path not in kinds else value
