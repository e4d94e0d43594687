"""The recipes by name: a recipe is a function that returns a whole typed config. Torch-free.

recipe = find("siamese_im_cpu_adamw")
config = recipe.make()
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, get_type_hints

from pydantic import BaseModel
from typing_extensions import TypeVar

from otherview.config import RunConfig
from otherview.dense.settings import DetectConfig, SegmentConfig
from otherview.errors import WrongRequest
from otherview.recipes import dense, ladder, one_gpu, rivals, siamese_im

Config = TypeVar("Config", bound=BaseModel, default=RunConfig)
COMMANDS: dict[type[BaseModel], str] = {
    RunConfig: "pretrain",
    DetectConfig: "evaluate detect",
    SegmentConfig: "evaluate segment",
}
"""Whose config a recipe gives."""


@dataclass(frozen=True)
class Recipe(Generic[Config]):
    """A named config with what it takes and what to expect."""

    name: str
    make: Callable[[], Config]

    def sized(self, size: int) -> Config:
        """The config for images of so many pixels along a side; raises WrongRequest where the recipe has one size only."""
        if not self.has_sizes:
            others = ", ".join(name for name, one in recipes_of(RunConfig).items() if one.has_sizes)
            raise WrongRequest(f"{self.name} is for one size of images: leave --size out, or take {others}")
        return self.make(size=size)  # pyright: ignore[reportCallIssue]  # it has the parameter

    @property
    def has_sizes(self) -> bool:
        """Whether the size of the images is a parameter."""
        return "size" in inspect.signature(self.make).parameters

    @property
    def kind(self) -> type[BaseModel]:
        """The class of its config."""
        return get_type_hints(self.make)["return"]

    @property
    def header(self) -> str:
        """Command, cost and expected score: the docstring of the function."""
        return "\n".join(line.strip() for line in (self.make.__doc__ or "").strip().splitlines())


def all_recipes() -> dict[str, Recipe[BaseModel]]:
    """Every recipe by name."""
    made = (*siamese_im.RECIPES, *ladder.RECIPES, *one_gpu.RECIPES, *rivals.RECIPES, *dense.RECIPES)
    return {make.__name__: Recipe(make.__name__, make) for make in made}


def recipes_of(kind: type[Config]) -> dict[str, Recipe[Config]]:
    """The recipes of one command by name."""
    return {name: recipe for name, recipe in all_recipes().items() if recipe.kind is kind}  # pyright: ignore[reportReturnType]


def find(name: str, kind: type[Config] = RunConfig) -> Recipe[Config]:
    """A command's recipe of that name; raises WrongRequest that lists what there is."""
    known = recipes_of(kind)
    if name not in known and (other := all_recipes().get(name)):
        raise WrongRequest(
            f"{name} is a recipe of `otherview {COMMANDS[other.kind]}`: here there are {', '.join(known)}"
        )
    return _among(known, name)


def named(name: str) -> Recipe[BaseModel]:
    """Any command's recipe of that name; raises WrongRequest that lists what there is."""
    return _among(all_recipes(), name)


def _among(known: dict[str, Recipe[Config]], name: str) -> Recipe[Config]:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "there are: " + ", ".join(known)
    raise WrongRequest(f"there is no recipe {name!r}: {hint} (`otherview recipes` lists them)")


def recipe(name: str, size: int | None = None) -> RunConfig:
    """The config of a pre-training recipe, ready for `otherview.pretrain`; `size` is the images' side in pixels."""
    found = find(name)
    return found.make() if size is None else found.sized(size)
