"""The word --weights, everywhere that weights are asked for.

load_encoder("runs/first")              # a finished run's online encoder
load_encoder("runs/first@3000")         # as a checkpoint that was kept has it; @last: the newest checkpoint
load_encoder("runs/first/target.safetensors"), load_encoder("reference:demo"), load_encoder("random:siamese_im_cpu_adamw")
load_encoder("timm:vit_small_patch16_224.augreg_in21k"), load_encoder("hf:facebook/dinov2-small"), load_encoder("mae.pth")
"""

from importlib import resources
from pathlib import Path
from typing import Any

from otherview.config import RunConfig, config_hash, load_config
from otherview.errors import WrongRequest
from otherview.nn.encoder import Encoder
from otherview.recipes.registry import find
from otherview.weights.convert import foreign, is_foreign
from otherview.weights.pretrained import UNTRAINED, Card, PretrainedEncoder, encoder_from, read_encoder

REFERENCE, RANDOM = "reference:", "random:"
START = "start.safetensors"
"""In a run folder: the weights that the run started from."""
KNOWN = "a finished run's folder, RUN@STEP, RUN@last, an encoder's file, timm:NAME, hf:ORG/NAME, random:RECIPE or reference:demo"


def load_encoder(where: str | Path) -> PretrainedEncoder:
    """An encoder that takes images as they are: uint8 or floats in [0, 1], [B, C, H, W].

    Raises WrongRequest where there is none.
    """
    word = str(where)
    if word.startswith(RANDOM):
        config = find(word.removeprefix(RANDOM)).make()
        card = card_of(config, method="untrained", branch="encoder", steps=0)
        return PretrainedEncoder(Encoder(config.encoder, seed=config.seed), card).eval()
    if is_foreign(word):
        found, _ = foreign(word)
        return PretrainedEncoder(found.encoder, found.card).eval()
    path, step = _parts(where)
    if step is not None:
        return _from_checkpoint(path, step)
    return read_encoder(_file_of(where, path))


def named(where: object) -> str | Path:
    """Weights that have to be named; raises WrongRequest for a module."""
    if not isinstance(where, str | Path):
        raise WrongRequest(f"{where} is not the name of weights, which this evaluation needs: give {KNOWN}")
    return where


def check_weights(where: object) -> None:
    """Raise WrongRequest for what cannot be an encoder, before anything is computed."""
    if not isinstance(where, str | Path):
        return
    if str(where).startswith(RANDOM):
        find(str(where).removeprefix(RANDOM))
        return
    if is_foreign(where):
        return
    path, step = _parts(where)
    if step is None:
        _file_of(where, path)
    else:
        _checkpoint_of(path, step)


def folder_of(where: object) -> Path | None:
    """The run folder that weights belong to, where they are named by one."""
    if not isinstance(where, str | Path) or str(where).startswith(RANDOM) or is_foreign(where):
        return None
    path, _ = _parts(where)
    return path if path.is_dir() and not str(where).startswith(REFERENCE) else None


def resolved(where: str | Path) -> Path:
    """The folder of a run that ships with the package, or the path as it is; raises WrongRequest for an unknown name."""
    if not str(where).startswith(REFERENCE):
        return Path(where)
    shipped = Path(str(resources.files("otherview").joinpath("reference")))
    name = str(where).removeprefix(REFERENCE)
    known = (
        sorted(path.name for path in shipped.iterdir() if (path / "config.yaml").exists()) if shipped.is_dir() else []
    )
    if name not in known:
        raise WrongRequest(
            f"{where} does not ship with otherview: choose from {', '.join(REFERENCE + one for one in known)}"
        )
    return shipped / name


def card_of(config: RunConfig, *, method: str, branch: str, steps: int, licence: str | None = None) -> Card:
    """What an encoder of this run says of itself."""
    return Card(
        method=method,
        recipe=config.recipe,
        branch=branch,
        encoder=config.encoder,
        mean=config.views.mean,
        std=config.views.std,
        levels=config.views.levels,
        ranges=config.views.ranges,
        seed=config.seed,
        steps=steps,
        config_hash=config_hash(config),
        licence_of_starting_weights=licence or UNTRAINED,
    )


def start_of(where: object) -> PretrainedEncoder | None:
    """The weights that a run started from, as it kept them; None for random ones, and for what is named otherwise."""
    if not isinstance(where, str | Path) or str(where).startswith((RANDOM, REFERENCE)):
        return None
    file = _parts(where)[0].expanduser() / START
    return read_encoder(file) if file.is_file() else None


def controls_of(where: object, card: Card) -> dict[str, Encoder]:
    """What an encoder is judged beside: the weights that its run started from, where it did, and its untrained twin."""
    start, twin = start_of(where), {"untrained": Encoder(card.encoder, seed=card.seed)}
    return twin if start is None else {"start": start.encoder, **twin}


def known_of(card: Card) -> dict[str, Any]:
    """What every result says of the run that an encoder comes from."""
    return {
        "method": card.method,
        "recipe": card.recipe,
        "config_hash": card.config_hash,
        "seed": card.seed,
        "steps": card.steps,
    }


def _parts(where: str | Path) -> tuple[Path, str | None]:
    """Path and step of RUN@STEP; a path that exists with its @ is a path."""
    path = resolved(where)
    run, at, step = str(where).rpartition("@")
    if not at or path.exists() or not (step == "last" or step.isdigit()):
        return path, None
    return resolved(run), step


def _file_of(where: str | Path, path: Path) -> Path:
    """The encoder file of a run folder, or the file itself; raises WrongRequest where there is none."""
    path = path.expanduser()
    file = path / "encoder.safetensors" if path.is_dir() else path
    if file.is_file():
        return file
    begun = (path / "checkpoints/last.pt").exists()
    why = f" yet: the run is not finished (the encoder of its newest checkpoint is {path}@last)" if begun else ""
    raise WrongRequest(f"{where} holds no encoder{why}: give {KNOWN}")


def _checkpoint_of(run: Path, step: str) -> Path:
    """The checkpoint file of a step; raises WrongRequest where it was not kept."""
    folder = run.expanduser() / "checkpoints"
    file = folder / ("last.pt" if step == "last" else f"step-{int(step):06d}.pt")
    if not file.is_file():
        kept = [str(int(path.stem.removeprefix("step-"))) for path in sorted(folder.glob("step-*.pt"))]
        there = ", ".join(f"@{one}" for one in [*kept, *(["last"] if (folder / "last.pt").exists() else [])])
        raise WrongRequest(
            f"{run}@{step} does not exist: {f'the run has {there}' if there else 'the run has no checkpoints'} "
            "(training.keep_every keeps more)"
        )
    return file


def _from_checkpoint(run: Path, step: str) -> PretrainedEncoder:
    """The online encoder of a run as one of its checkpoints has it."""
    file, config = _checkpoint_of(run, step), load_config(run.expanduser() / "config.yaml")
    return encoder_from(
        file,
        lambda steps, licence: card_of(
            config, method=config.method.name, branch="encoder", steps=steps, licence=licence
        ),
    )
