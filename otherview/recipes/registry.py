"""The recipes by name: a recipe is a function that returns a whole typed config. Torch-free.

recipe = find("siamese_im_pico_32")
config = recipe.make()
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from otherview.config import RunConfig
from otherview.errors import WrongRequest


@dataclass(frozen=True)
class Recipe:
    """A named config with what it takes and what to expect."""

    name: str
    make: Callable[[], RunConfig]

    @property
    def header(self) -> str:
        """Command, cost and expected score: the docstring of the function."""
        return "\n".join(line.strip() for line in (self.make.__doc__ or "").strip().splitlines())


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    from otherview.recipes import rivals, siamese_im

    return {make.__name__: Recipe(make.__name__, make) for make in (*siamese_im.RECIPES, *rivals.RECIPES)}


def find(name: str) -> Recipe:
    """The recipe of that name; raises WrongRequest that lists what there is."""
    known = all_recipes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "there are: " + ", ".join(known)
        raise WrongRequest(f"no recipe is called {name!r}: {hint} (`otherview recipes` lists them)")
    return known[name]
