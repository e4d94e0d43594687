"""The command line: `otherview COMMAND [flags]`, or `python -m otherview`, as torchrun starts it.

Standard output carries the result only. Exit status: 0 done, 1 the run failed, 2 the request was wrong, 75 asked to
stop and a checkpoint was written.
"""

import difflib
import inspect
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, ValidationError

from otherview import __version__
from otherview.commands import bench, compare, doctor, evaluate, plan, predict, pretrain, recipes, show, weights
from otherview.commands.command import Command
from otherview.config import RunConfig, filled, first_line, read_config
from otherview.errors import Stopped, WrongRequest
from otherview.launch import adopt_slurm, launched_rank
from otherview.nn.settings import SIZES_OF_WEIGHTS
from otherview.recipes.registry import find
from otherview.training.settings import OF_A_START

ROOMS = pretrain, doctor, plan, evaluate, predict, weights, show, compare, recipes, bench
COMMANDS: dict[str, Command] = {command.words: command for room in ROOMS for command in room.COMMANDS}
EVERY_COMMAND = "Every command: --json prints one JSON object, --debug shows the traceback of an error."
WITH_CONFIG = "--recipe NAME or --config FILE is read first; the flags below change its settings."
SIZED = "--size PIXELS sets the side of the images, where the recipe allows it (siamese_im_small, for one)."
CHOSEN = (
    "Without either, settings that you do not give are chosen; the values in brackets are then those for many images."
)


def main() -> None:
    """The program. It ends here, whatever became of its workers and of the other processes of its job."""
    for stream in (sys.stdout, sys.stderr):  # a terminal or a file that lacks a character gets its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = dispatch(sys.argv[1:])
    _leave()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the result has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _leave() -> None:
    """Leave the job's process group, where torch has been used at all."""
    if "torch" in sys.modules:
        from otherview.distributed import leave_job

        leave_job()


def dispatch(words: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    words = list(words)
    debug, as_json = (flag in words for flag in ("--debug", "--json"))
    words = [word for word in words if word not in ("--debug", "--json")]
    adopt_slurm()  # before anything asks how many processes there are
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if words[0] in ("-V", "--version"):
            print(f"otherview {__version__}")
            return 0
        command, flags = find_command(words)
        _run(command, flags, as_json=as_json)
        return 0
    except WrongRequest as error:
        return _say(error, 2, debug)
    except ValidationError as error:
        return _say(first_line(error), 2, debug)
    except Stopped as stopped:
        return _say(stopped, 75, debug=False)
    except KeyboardInterrupt:
        return _say("interrupted", 1, debug)
    except BrokenPipeError:
        return 0
    except Exception as error:
        return _say(f"{type(error).__name__}: {first_line(error)}", 1, debug)


def _say(message: object, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if status == 2 and launched_rank() > 0:  # every process of a job refuses the same
        return status
    print(f"otherview: {message}", file=sys.stderr)
    return status


def _run(command: Command, flags: list[str], *, as_json: bool) -> None:
    result = command.run(parse(command, flags))
    if launched_rank() == 0:
        print(json.dumps(result) if as_json else "\n".join(command.show(result)))


def parse(command: Command, flags: list[str]) -> Any:
    """The settings of a command line.

    Two steps where there is a config: the recipe or file is read first, and its values become the defaults of the flags.
    """
    about = f"{inspect.getdoc(command.settings)}\n\n{EVERY_COMMAND}"
    options: dict[str, Any] = {"prog": f"otherview {command.words}", "config": (tyro.conf.AvoidSubcommands,)}
    if command.config is None:
        return tyro.cli(command.settings, args=flags, description=about, **options)
    config, rest = _base_config(flags, kind=command.config, default=command.recipe)
    default = object.__new__(command.settings)  # not made by its own rules: what is required is still missing
    for field in fields(command.settings):
        setattr(default, field.name, config if field.name == "config" else _default_of(field))
    more = f"{CHOSEN} {SIZED}" if command.config is RunConfig else CHOSEN
    about = f"{about}\n{WITH_CONFIG} {more}"
    parsed = tyro.cli(command.settings, args=rest, description=about, default=default, **options)
    if not getattr(config, "recipe", ""):  # nothing at all, or a file of some settings: what is not given is chosen
        parsed.config = filled(config, only_given(parsed.config, rest))
    if isinstance(parsed.config, RunConfig):
        _refuse_unused(parsed.config, rest, starts=getattr(parsed, "init", None) is not None)
    return parsed


def _default_of(field: Any) -> Any:
    return tyro.MISSING if field.default is MISSING else field.default


def _refuse_unused(config: RunConfig, flags: list[str], *, starts: bool) -> None:
    """Raise WrongRequest for a flag that decides nothing beside the others: who gives it believes that it does."""
    unused = config.unused()
    if starts:
        unused |= {f"encoder.{size}": "the weights of --init have a size of their own" for size in SIZES_OF_WEIGHTS}
    else:
        unused |= {f"training.{name}": "the run starts from no weights (--init)" for name in OF_A_START}
    for flag in (word.partition("=")[0] for word in flags if word.startswith("--")):
        setting = f"{flag.removeprefix('--').replace('-', '_')}."
        for name, why in unused.items():
            if setting.startswith(f"{name}."):
                raise WrongRequest(f"{flag} has no effect here, because {why}: leave it out")


def only_given(config: BaseModel, flags: Sequence[str], prefix: str = "") -> BaseModel:
    """The same config, of which only what these flags give counts as set."""
    names = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in flags if word.startswith("--")}
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            inner = only_given(value, flags, f"{prefix}{name}.")
            found |= {name: inner} if inner.model_fields_set else {}
        elif names & {f"{prefix}{name}", f"{prefix}no_{name}"}:
            found[name] = value
    return type(config).model_validate(found)


def _base_config(flags: list[str], *, kind: type[BaseModel], default: str | None) -> tuple[BaseModel, list[str]]:
    """Take --recipe NAME or --config FILE out of the flags; without either, the default recipe or, with none, a bare config."""
    found: dict[str, str] = {}
    rest: list[str] = []
    words = iter(flags)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--recipe", "--config") or (name == "--size" and kind is RunConfig):
            found[name] = value if equals else next(words, "")
        else:
            rest.append(word)
    if "--config" in found:
        if len(found) > 1:
            raise WrongRequest(
                f"--config holds everything that a recipe gives: leave {min(found.keys() - {'--config'})} out"
            )
        return read_config(Path(found["--config"]), kind), rest
    name = found.get("--recipe", default)
    if name is None:
        side = str(_pixels(found["--size"])) if "--size" in found else ""
        return kind(), [*rest, "--encoder.image-size", side, side] if side else rest
    recipe = find(name, kind)
    return recipe.sized(_pixels(found["--size"])) if "--size" in found else recipe.make(), rest


def _pixels(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise WrongRequest(f"--size {word} is not a number of pixels: give the side of the images, as in --size 96")
    return int(word)


def find_command(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that a command line begins with, and its flags; raises WrongRequest for one that there is none of."""
    for count in (2, 1):
        if (name := " ".join(words[:count])) in COMMANDS:
            return COMMANDS[name], list(words[count:])
    several = [name for name in COMMANDS if name.startswith(words[0] + " ")]
    if several:
        given = " ".join(words[1:2])
        if given in ("", "-h", "--help"):
            print(_overview(several))
            sys.exit(0 if given else 2)
        raise WrongRequest(
            f"{words[0]} has no subcommand {given!r}: choose from {', '.join(name.split()[1] for name in several)}"
        )
    close = difflib.get_close_matches(words[0], COMMANDS, n=1)
    raise WrongRequest(
        f"there is no command {words[0]!r}: {f'did you mean {close[0]}?' if close else 'see otherview --help'}"
    )


def _overview(names: Sequence[str] | None = None) -> str:
    lines = [f"  otherview {name:22} {COMMANDS[name].what}" for name in names or COMMANDS]
    return "\n".join([
        "otherview: from one view, predict the other. Siamese Image Modeling on your own images.",
        "",
        *lines,
        "",
        "every command: --help explains it, --json prints one JSON object, --debug shows tracebacks",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
