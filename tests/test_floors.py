"""The house: a file imports only from lower floors, and from its own folder without a circle."""

import ast
import itertools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "otherview"

FLOORS = (
    ("errors", "launch", "signature"),
    ("files", "geometry", "distributed", "seeding", "judgement"),
    ("data", "losses"),
    ("views", "nn"),
    ("methods",),
    ("training",),
    ("config", "scores"),
    ("recipes", "report"),
    ("weights", "bench"),
    ("evaluation",),
    ("dense",),
    ("runs",),
    ("evaluate", "show"),
    ("__init__",),
    ("commands",),
    ("__main__",),
)


@pytest.mark.parametrize(
    "path", [*PACKAGE.rglob("*settings.py"), PACKAGE / "config.py"], ids=lambda path: path.parent.name
)
def test_the_help_of_a_setting_is_one_line(path: Path) -> None:
    """--help would keep the line break of the source in the middle of a sentence."""
    classes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]
    docs = [
        doc.value.value
        for body in (node.body for node in classes)
        for setting, doc in itertools.pairwise(body)
        if isinstance(setting, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
    ]
    assert [doc for doc in docs if "\n" in doc] == []


ROOMS = tuple(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def room(module: str) -> str:
    """The folder or file of a dotted name below the package: 'otherview.nn.encoder' → 'nn'."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(name: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if name in rooms]
    assert found, f"{name} has no floor: add it to the plan of the house"
    return found[0]


def module_name(path: Path) -> str:
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return dotted.removesuffix(".__init__") if path.parent != PACKAGE else dotted


def imports_of(source: str) -> set[str]:
    """Every otherview module a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] == "otherview"}


def is_settings(module: str) -> bool:
    """Whether a file holds a room's settings: anyone may know them, since they know nothing themselves."""
    return module.split(".")[-1].endswith("settings")


def upward(files: dict[str, str]) -> list[str]:
    """Arrows that point up or sideways, among `files` (module name → source)."""
    wrong = []
    for module, source in files.items():
        for imported in imports_of(source):
            here, there = room(module), room(imported)
            if here != there and floor(there) >= floor(here) and not is_settings(imported):
                wrong.append(f"{module} imports {imported}")
    return wrong


def circles(files: dict[str, str]) -> list[str]:
    """Modules that reach themselves through imports."""
    arrows = {module: imports_of(source) & files.keys() for module, source in files.items()}

    def reaches(start: str) -> set[str]:
        seen: set[str] = set()
        open_ends = [start]
        while open_ends:
            for following in arrows[open_ends.pop()] - seen:
                seen.add(following)
                open_ends.append(following)
        return seen

    return [module for module in files if module in reaches(module)]


def the_house() -> dict[str, str]:
    return {module_name(path): path.read_text() for path in PACKAGE.rglob("*.py")}


def test_no_arrow_points_up() -> None:
    files = {name: source for name, source in the_house().items() if name != "otherview.__init__"}
    assert upward(files) == []
    assert circles(files) == []


@pytest.mark.parametrize(
    "files",
    [
        {"otherview.geometry": "from otherview.methods.target import move"},
        {"otherview.losses.unigrad": "def f():\n    import otherview.methods.siamese_im"},
        {"otherview.views.crop": "from otherview.nn.encoder import Encoder"},
    ],
)
def test_an_upward_or_sideways_arrow_is_found(files: dict[str, str]) -> None:
    assert upward(files)


def test_a_circle_is_found() -> None:
    assert circles({"otherview.nn.a": "from otherview.nn.b import x", "otherview.nn.b": "import otherview.nn.a"})


def test_settings_know_nothing_but_settings() -> None:
    known = {name: imports_of(source) for name, source in the_house().items() if is_settings(name)}
    assert len(known) > 8
    for name, imported in known.items():
        wrong = {
            one for one in imported if not is_settings(one) and one not in ("otherview.errors", "otherview.config")
        }
        assert not wrong, (name, wrong)


NAMED_AFTER_OTHERS = "commands", "recipes", "bench"
"""Rooms whose files are named after what they call, configure or measure."""


def test_no_stem_stands_twice() -> None:
    stems = [
        path.stem
        for path in PACKAGE.rglob("*.py")
        if path.parent.name not in NAMED_AFTER_OTHERS and path.stem not in ("settings", "__init__")
    ]
    assert sorted({stem for stem in stems if stems.count(stem) > 1}) == []


def test_commands_are_thin() -> None:
    lines = {name: source.count("\n") for name, source in the_house().items()}
    commands = sum(count for name, count in lines.items() if room(name) in ("commands", "__main__"))
    assert commands < 0.1 * sum(lines.values()) and commands <= 1200


def test_files_and_functions_stay_small() -> None:
    large = [name for name, source in the_house().items() if source.count("\n") > 300]
    assert large == []
    long = [
        f"{name}.{node.name}"
        for name, source in the_house().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 50
    ]
    assert long == []


CONTRACTS = {"errors", "signature", "callbacks", "seeding", "evaluate", "show", "reconstruction"}
"""Short files that say what others have to keep to, or what only one system knows."""


def test_a_file_holds_a_whole_idea() -> None:
    short = [
        name
        for name, source in the_house().items()
        if source.count("\n") < 40
        and name.split(".")[-1] not in {*CONTRACTS, "settings", "__init__"}
        and room(name) not in ("commands", "bench", "recipes")
        and not name.endswith(tuple(f".{r}" for r in ROOMS))
    ]
    assert short == []


def test_names_say_something() -> None:
    stems = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not stems & {"utils", "util", "misc", "helpers", "helper", "common"}


def test_torch_is_imported_through_the_house_rule_only_where_heavy_files_are() -> None:
    light = [
        path
        for path in PACKAGE.rglob("*.py")
        if path.name in ("settings.py", "__init__.py", "__main__.py", "config.py", "plan.py", "evaluate.py", "show.py")
    ]
    light += [*(PACKAGE / "recipes").rglob("*.py"), *(PACKAGE / "commands").rglob("*.py")]
    for path in light:
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {(node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom)}
        heavy = set() if path.name == "plan.py" else {"numpy"}
        assert not names & {*heavy, "torch", "timm", "torchvision", "accelerate", "cv2", "matplotlib"}, path
