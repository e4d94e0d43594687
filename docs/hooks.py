"""Pages that are generated when the site is built: every command with its help, every setting of a run."""

import ast
import contextlib
import importlib
import inspect
import io
import re
from pathlib import Path
from typing import Any, get_args

from mkdocs.structure.files import File
from pydantic import BaseModel

import otherview
from otherview.__main__ import COMMANDS, parse
from otherview.config import RunConfig
from otherview.dense.settings import DetectConfig, SegmentConfig
from otherview.methods.settings import MAESettings, MoCoV3Settings, SiameseIMSettings, SupervisedSettings

RECIPES = {"pretrain": "siamese_im_cpu_adamw", "evaluate detect": "detect_cpu", "evaluate segment": "segment_cpu"}
METHODS = (SiameseIMSettings, MAESettings, MoCoV3Settings, SupervisedSettings)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those of the folder."""
    for name, content in {"commands.md": commands(), "settings.md": settings(), **api()}.items():
        files.append(File.generated(config, name, content=content))
    return files


PACKAGE = Path(otherview.__file__).parent
ROOMS = (
    "data", "views", "nn", "losses", "methods", "training", "weights", "evaluation", "dense", "runs", "report", "recipes",
    "bench",
)  # fmt: skip


def api() -> dict[str, str]:
    """A page for each room of the package, made from its docstrings, and one that lists the public functions."""
    pages = {}
    for room in ROOMS:
        modules = [path.stem for path in sorted((PACKAGE / room).glob("*.py")) if path.stem != "__init__"]
        about = importlib.import_module(f"otherview.{room}").__doc__
        parts = [f"# otherview.{room}", "", str(about), *(f"\n::: otherview.{room}.{module}" for module in modules)]
        pages[f"api/{room}.md"] = "\n".join(parts)
    single = [path.stem for path in sorted(PACKAGE.glob("*.py")) if not path.stem.startswith("_")]
    pages["api/foundations.md"] = "\n".join(["# Foundations", "", *(f"\n::: otherview.{name}" for name in single)])
    listed = [f"- [`otherview.{name}`][otherview.{room}.{name}]" for name, room in sorted(otherview._HANDED_ON.items())]
    rooms = [f"- [`otherview.{room}`]({room}.md)" for room in ROOMS]
    pages["api/index.md"] = "\n".join([
        "# Python", "", "The public functions. Each has the parameters of the command with its name.", "", *listed,
        "- [`otherview.evaluate`](foundations.md), one function for each protocol",
        "- [`otherview.show`](foundations.md), one function for each picture", "", "The whole package, by room:", "",
        *rooms, "- [foundations](foundations.md): what every room may use",
    ])  # fmt: skip
    return pages


def commands() -> str:
    """The help of every command as the command line prints it."""
    parts = ["# Commands", "", "What `--help` prints. Generated from the program."]
    for name, command in COMMANDS.items():
        recipe = ["--recipe", RECIPES[name]] if name in RECIPES else []
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            parse(command, [*recipe, "--help"])
        parts += [
            "",
            f"## {name}",
            "",
            f"{command.what}.",
            "",
            "```text",
            ANSI.sub("", printed.getvalue()).strip(),
            "```",
        ]
    return "\n".join(parts)


def settings() -> str:
    """Every setting with its default and what its docstring says."""
    parts = [
        "# Settings",
        "",
        "Every one is a flag of its command: `--training.warmup 0.1`. Generated from the typed configs.",
    ]
    parts += ["", "## pretrain", "", "Defaults are those of ViT-B/16 as published; a recipe changes some of them."]
    parts += _table(RunConfig)
    for method in METHODS:
        parts += ["", f"## pretrain, method {method.model_fields['name'].default}", *_table(method, "method.")]
    for name, kind in (("evaluate detect", DetectConfig), ("evaluate segment", SegmentConfig)):
        parts += ["", f"## {name}", *_table(kind)]
    return "\n".join(parts)


def _table(kind: type[BaseModel], prefix: str = "") -> list[str]:
    lines = ["", "| setting | default | |", "|---|---|---|", *_rows(kind, prefix)]
    return lines


def _rows(kind: type[BaseModel], prefix: str) -> list[str]:
    words, rows = _docstrings(kind), list[str]()
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            union = len(get_args(field.annotation)) > 1
            rows += [] if union else _rows(type(default), f"{prefix}{name}.")
            continue
        said = words.get(name, "").replace("|", "\\|").replace("\n", " ")
        rows.append(f"| `{prefix}{name}` | `{default}` | {re.sub(r'  +', ' ', said)} |")
    return rows


def _docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """The string under each field of a class and of those it inherits from."""
    found: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if not issubclass(parent, BaseModel) or parent is BaseModel:
            continue
        body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(parent))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = str(after.value.value)
    return found
