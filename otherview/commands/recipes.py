"""`otherview recipes`: list the recipes, or print one whole."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from otherview.commands.command import Command
from otherview.config import to_yaml
from otherview.recipes.registry import all_recipes, named


@dataclass(kw_only=True)
class RecipesSettings:
    """List the recipes: command, cost, expected score. NAME prints its whole config."""

    name: Annotated[str | None, tyro.conf.Positional] = None


def list_recipes(*, name: str | None = None) -> dict[str, Any]:
    """All recipes by name, or one with its config."""
    if name is None:
        return {"recipes": {one: recipe.header for one, recipe in all_recipes().items()}}
    found = named(name)
    return {"recipe": found.name, "header": found.header, "config": found.make().model_dump(mode="json")}


def show_recipes(result: dict[str, Any]) -> list[str]:
    """A list, or one config as YAML with its header as comment."""
    if "recipes" in result:
        return [
            f"{name}\n    {header.replace(chr(10), chr(10) + '    ')}\n" for name, header in result["recipes"].items()
        ]
    header = "\n".join(f"# {line}".rstrip() for line in result["header"].splitlines())
    return [f"{header}\n{to_yaml(named(result['recipe']).make())}"]


COMMANDS = (
    Command(
        words="recipes", what="list the recipes; NAME prints its whole config",
        settings=RecipesSettings, work="otherview.commands.recipes:list_recipes", show=show_recipes,
    ),
)  # fmt: skip
