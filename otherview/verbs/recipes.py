"""List the recipes, or print one whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from otherview.config import RunConfig, to_yaml
from otherview.recipes.registry import all_recipes, find, named
from otherview.verbs.request import Request


@dataclass(kw_only=True)
class Recipes(Request):
    """List the recipes: command, cost, expected score. NAME prints its whole config."""

    name: Annotated[str | None, tyro.conf.Positional] = None


def recipe(name: str) -> RunConfig:
    """The config of a recipe, ready for `otherview.pretrain` or `model_copy`."""
    return find(name).make()


def run(request: Recipes) -> dict[str, Any]:
    """The verb."""
    if request.name is None:
        return {"recipes": {name: recipe.header for name, recipe in all_recipes().items()}}
    found = named(request.name)
    return {"recipe": found.name, "header": found.header, "config": found.make().model_dump(mode="json")}


def show(result: dict[str, Any]) -> Sequence[str]:
    """A list, or one config as YAML with its header as comment."""
    if "recipes" in result:
        return [
            f"{name}\n    {header.replace(chr(10), chr(10) + '    ')}\n" for name, header in result["recipes"].items()
        ]
    header = "\n".join(f"# {line}".rstrip() for line in result["header"].splitlines())
    return [f"{header}\n{to_yaml(named(result['recipe']).make())}"]
