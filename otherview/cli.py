"""The command line: verbs, nothing else.

    otherview VERB [flags]        `otherview VERB --help` teaches

Standard output carries the result only. Exit status: 0 done, 1 the run failed, 2 the request was wrong, 75 asked to
stop and a checkpoint was written.
"""

import dataclasses
import difflib
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro
from pydantic import BaseModel, ValidationError

from otherview.config import RunConfig, first_line, read_config
from otherview.errors import Stopped, WrongRequest
from otherview.recipes.registry import find
from otherview.training.launch import adopt_slurm, launched_rank

VERBS = {
    "demo": ("demo", "Demo", "pre-train, evaluate and report on built-in images, in minutes, with no network"),
    "doctor": ("doctor", "Doctor", "what is in this data, what is broken, what run fits, how long it will take"),
    "pretrain": ("pretrain", "Pretrain", "pre-train an encoder on your images; the same command continues"),
    "evaluate knn": ("evaluate", "Knn", "weighted nearest neighbours on frozen features"),
    "evaluate linear": ("evaluate", "Linear", "logistic regression on frozen features"),
    "evaluate probe": ("probe", "ProbeRequest", "the paper's linear probe: augmented, LARS, several rates in one pass"),
    "evaluate finetune": ("finetune", "Finetune", "the whole encoder learns the classes, by the paper's recipe"),
    "evaluate few-shot": ("few_shot", "FewShot", "logistic regression on the features of a few labelled images"),
    "evaluate robustness": ("robustness", "Robustness", "a fine-tuned classifier on corrupted and foreign images"),
    "evaluate detect": (
        "detect",
        "DetectRequest",
        "boxes and masks of objects: ViTDet with Mask R-CNN, box and mask AP",
    ),
    "evaluate segment": ("segment", "SegmentRequest", "the class of every pixel: UPerNet on the whole encoder, mIoU"),
    "evaluate linear-segment": (
        "linear_segment",
        "LinearSegment",
        "a linear head on frozen patch tokens names every pixel",
    ),
    "evaluate retrieval": ("retrieval", "Retrieval", "do patches of one view find their place in another"),
    "embed": ("embed", "Embed", "features of images as parquet, npy or safetensors; the same command continues"),
    "convert": (
        "convert",
        "Convert",
        "an encoder from SiameseIM's, MAE's, MoCo-v3's or timm's files, every tensor accounted for",
    ),
    "export": ("export", "Export", "an encoder for timm, Hugging Face transformers or ONNX, held against ours"),
    "show views": ("show", "ShowViews", "the two views of some images, as the learner sees them"),
    "show masks": ("show", "ShowMasks", "what is hidden: some masks and how often each patch is"),
    "show correspondence": ("show", "ShowCorrespondence", "where the patches of one view fall in the other"),
    "show attention": ("show_tokens", "ShowAttention", "what the cls token attends to, head by head"),
    "show components": ("show_tokens", "ShowComponents", "principal components of patch tokens as colours"),
    "show matches": ("show_tokens", "ShowMatches", "patches of one view and what is most like them in another"),
    "show neighbours": ("show_tokens", "ShowNeighbours", "images beside those that lie nearest to them"),
    "compare": ("compare", "Compare", "several runs in one table; studies that make those runs, and skip what is done"),
    "recipes": ("recipes", "Recipes", "list the recipes; NAME prints its whole config"),
    "bench loader": ("bench", "BenchLoader", "images/s per core of the input path against torchvision on PIL images"),
    "bench step": ("bench", "BenchStep", "images/s of a training step against a naive twin, share of the peak, memory"),
    "bench loss": ("bench", "BenchLoss", "memory and time of the loss"),
}


DEFAULT_RECIPES = {"evaluate detect": "vitdet_b_coco", "evaluate segment": "upernet_b_ade20k"}
DEFAULT_RECIPE = "siamese_im_vit_b16"
"""Of all other verbs."""


def main() -> None:
    """The program."""
    sys.exit(dispatch(sys.argv[1:]))


def dispatch(words: list[str]) -> int:
    """Run one command line; returns the exit status."""
    debug = "--debug" in words
    adopt_slurm()  # before anything asks how many processes there are
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return 0
        verb, flags = _verb(words)
        return _run(verb, flags)
    except WrongRequest as error:
        return _say(error, 2, debug)
    except ValidationError as error:
        return _say(first_line(error), 2, debug)
    except Stopped as stopped:
        return _say(stopped, 75, debug=False)
    except KeyboardInterrupt:
        return _say("interrupted", 1, debug)
    except Exception as error:
        return _say(f"{type(error).__name__}: {first_line(error)}", 1, debug)


def _say(message: object, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if status == 2 and launched_rank() > 0:  # every process of a job refuses the same
        return status
    print(f"otherview: {message}", file=sys.stderr)
    return status


def _run(verb: str, flags: list[str]) -> int:
    module_name, request_name, _ = VERBS[verb]
    module = importlib.import_module(f"otherview.verbs.{module_name}")
    request = _parse(getattr(module, request_name), verb, flags)
    result: dict[str, Any] = module.run(request)
    if launched_rank() == 0:
        print(json.dumps(result) if request.json else "\n".join(module.show(result)))
    return 0


def _parse(request: type, verb: str, flags: list[str]) -> Any:
    """Two steps: the recipe or config is read first, and its values become the defaults that the flags change."""
    if "config" not in request.__dataclass_fields__:
        return tyro.cli(request, args=flags, prog=f"otherview {verb}", config=(tyro.conf.AvoidSubcommands,))
    annotation = get_type_hints(request, include_extras=True)["config"]
    config, rest = _base_config(flags, kind=get_args(annotation)[0], default=DEFAULT_RECIPES.get(verb, DEFAULT_RECIPE))
    request = _with_default_config(request, annotation, config)
    parsed = tyro.cli(request, args=rest, prog=f"otherview {verb}", config=(tyro.conf.AvoidSubcommands,))
    if isinstance(parsed.config, RunConfig):
        _refuse_unused(parsed.config, rest)
    return parsed


def _refuse_unused(config: RunConfig, flags: list[str]) -> None:
    """Raise WrongRequest for a flag that decides nothing beside the others: who gives it believes that it does."""
    unused = config.unused()
    for flag in (word.partition("=")[0] for word in flags if word.startswith("--")):
        setting = f"{flag.removeprefix('--').replace('-', '_')}."
        for name, why in unused.items():
            if setting.startswith(f"{name}."):
                raise WrongRequest(f"{flag} decides nothing here, as {why}: leave it out")


def _with_default_config(request: type, annotation: Any, config: BaseModel) -> type:
    """The same request whose `config` is filled in."""
    body = {"__annotations__": {"config": annotation}, "config": config, "__doc__": request.__doc__}
    return dataclasses.dataclass(kw_only=True)(type(request.__name__, (request,), body))


def _base_config(flags: list[str], *, kind: type[BaseModel], default: str) -> tuple[BaseModel, list[str]]:
    """Take --recipe NAME or --config FILE out of the flags."""
    found: dict[str, str] = {}
    rest: list[str] = []
    words = iter(flags)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--recipe", "--config"):
            found[name] = value if equals else next(words, "")
        else:
            rest.append(word)
    if len(found) > 1:
        raise WrongRequest("--recipe and --config exclude each other: a config holds everything a recipe gives")
    if "--config" in found:
        return read_config(Path(found["--config"]), kind), rest
    return find(found.get("--recipe", default), kind).make(), rest


def _verb(words: list[str]) -> tuple[str, list[str]]:
    for count in (2, 1):
        if (verb := " ".join(words[:count])) in VERBS:
            return verb, words[count:]
    several = [verb for verb in VERBS if verb.startswith(words[0] + " ")]
    if several:
        given = " ".join(words[1:2])
        if given in ("", "-h", "--help"):
            print(_overview(several))
            sys.exit(0 if given else 2)
        raise WrongRequest(f"{words[0]} has no {given!r}: there is {', '.join(verb.split()[1] for verb in several)}")
    close = difflib.get_close_matches(words[0], VERBS, n=1)
    raise WrongRequest(
        f"no verb is called {words[0]!r}: {f'did you mean {close[0]}?' if close else 'see otherview --help'}"
    )


def _overview(verbs: list[str] | None = None) -> str:
    lines = [f"  otherview {verb:22} {VERBS[verb][2]}" for verb in verbs or VERBS]
    return "\n".join([
        "otherview: from one view, predict the other. Siamese Image Modeling on your own images.",
        "",
        *lines,
        "",
        "every verb: --help teaches, --json prints one object, --debug shows tracebacks",
    ])  # fmt: skip
