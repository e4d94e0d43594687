"""The settings of a run: typed, validated, to and from YAML. Torch-free.

config = load_config(Path("runs/first/config.yaml"))
config_hash(config)      # names the science: equal hashes, equal results
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otherview.errors import WrongRequest
from otherview.methods.settings import MethodSettings, Rule, SiameseIMSettings, that_hold
from otherview.nn.settings import EncoderSettings
from otherview.training.settings import FREE_TO_CHANGE, TrainingSettings
from otherview.views.settings import ViewSettings

if TYPE_CHECKING:
    from otherview.data.image import Preprocessing


def token_of(method: str | None) -> Literal["mean", "cls"]:
    """The token that stands for an image (specification 2): MoCo-v3's is cls, the others' the mean of the patches'."""
    return "cls" if method == "moco_v3" else "mean"


class RunConfig(BaseModel):
    """Everything that decides the outcome of a pre-training run, apart from the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = ""
    """The recipe this started from."""
    seed: int = Field(default=0, ge=0)
    batch: int = Field(default=4096, ge=1)
    """Global batch: over all ranks and accumulation steps."""
    epochs: float = Field(default=1600.0, gt=0)
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; where given it decides instead of epochs."""
    start_from: str = ""
    """Digest of the weights that the encoder starts from (--init); empty: random weights."""
    encoder: EncoderSettings = EncoderSettings()
    method: MethodSettings = SiameseIMSettings()
    views: ViewSettings = ViewSettings()
    training: TrainingSettings = TrainingSettings()

    @property
    def is_whole(self) -> bool:
        """Whether it is run as it is: it was made by a recipe, has all settings, or a method that no rules exist for."""
        return (
            bool(self.recipe)
            or self.method.name != "siamese_im"
            or self.model_fields_set >= set(type(self).model_fields)
        )

    def check(self) -> None:
        """Raise WrongRequest where settings do not fit each other."""
        self.encoder.check()
        if not self.encoder.class_token:
            raise WrongRequest("encoder.class_token is off: pre-training needs the class token")
        self.method.check()
        self.views.check(channels=self.encoder.channels, grid=self.encoder.grid)
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise WrongRequest where the views have settings that the method does not use."""
        views, method = self.views, self.method
        for name, value, neutral in (
            ("masks_per_image", views.masks_per_image, 1),
            ("predict_ratio", views.predict_ratio, 1.0),
        ):
            if value != neutral and not isinstance(method, SiameseIMSettings):
                raise WrongRequest(
                    f"views.{name} {value} works with siamese_im only: with {method.name} it must be {neutral}"
                )
        if method.name == "mae" and not views.mask.masked_of(self.encoder.grid[0] * self.encoder.grid[1]):
            raise WrongRequest(
                "views.mask masks no patch, and mae predicts masked patches: give a higher views.mask.ratio"
            )
        if method.name in ("moco_v3", "supervised") and views.mask.kind != "none":
            raise WrongRequest(
                f"views.mask.kind {views.mask.kind} is not for {method.name}, which uses all patches: give none"
            )
        if views.target_crop == "same" and method.name in ("mae", "supervised"):
            raise WrongRequest(f"views.target_crop same means nothing to {method.name}, which uses only one view")
        if (
            views.predict_ratio < 1
            and isinstance(method, SiameseIMSettings)
            and method.loss in ("global", "global_dense")
        ):
            raise WrongRequest(
                f"views.predict_ratio {views.predict_ratio} leaves no whole image to take the mean of, as method.loss does"
            )

    def unused(self) -> dict[str, str]:
        """Settings that decide nothing beside the others, by name or by the beginning of their names, and why."""
        views, method, kind = self.views, self.method, self.views.mask.kind
        one_view, same_crop = method.name in ("mae", "supervised"), views.target_crop == "same"
        rules = [
            Rule(one_view, f"{method.name} uses only one view", ("views.target_colour",)),
            Rule(kind == "none", "views.mask.kind none masks nothing", ("views.mask.ratio", "views.mask.count")),
            Rule(kind in ("none", "random"), f"views.mask.kind {kind} has no blocks", ("views.mask.minimum_block",)),
            Rule(views.mask.count is not None, "views.mask.count already sets the number", ("views.mask.ratio",)),
            Rule(
                same_crop,
                "with views.target_crop same both views lie in the same place",
                ("method.relative_position", "method.overlap_only"),
            ),
            Rule(self.encoder.positions == "learned", "encoder.positions is learned", ("encoder.column_first",)),
        ]
        return that_hold(rules) | {f"method.{name}": why for name, why in method.unused().items()}

    @property
    def token(self) -> Literal["mean", "cls"]:
        """The token that stands for an image."""
        return token_of(self.method.name)

    @property
    def preprocessing(self) -> "Preprocessing":
        """How the encoder of this run wants its images."""
        from otherview.data.image import Preprocessing

        views, encoder = self.views, self.encoder
        return Preprocessing(encoder.image_size, views.mean, views.std, encoder.channels, views.levels, views.ranges)

    def seeing(self, preprocessing: "Preprocessing") -> "RunConfig":
        """The config of a run on images whose values were found to mean this."""
        views = self.views.model_copy(update={"ranges": dict(preprocessing.ranges)})
        return self.model_copy(update={"views": views})

    def steps_for(self, images: int) -> int:
        """Optimiser steps of a run over `images` images."""
        return self.steps or max(1, round(self.epochs * (images // self.batch)))

    def warnings(self) -> list[str]:
        """What is allowed but known to go wrong, with what to change."""
        rows, columns = self.encoder.grid
        found = self.method.warnings(images=self.batch, patches=rows * columns)
        for branch in ("online_colour", "target_colour"):
            colour = getattr(self.views, branch)
            if colour.blur_probability > 0 and colour.blur_sigma[1] > self.encoder.patch_size / 2:
                found.append(
                    f"views.{branch}.blur_sigma reaches {colour.blur_sigma[1]}, more than half a patch of "
                    f"{self.encoder.patch_size} px: it blurs small images beyond recognition; "
                    f"use --views.{branch.replace('_', '-')}.blur-probability 0"
                )
        return found


def config_hash(config: RunConfig) -> str:
    """Twelve hexadecimal digits of everything that decides the outcome."""
    content = config.model_dump(mode="json")
    content["training"] = {k: v for k, v in content["training"].items() if k not in FREE_TO_CHANGE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def changed_settings(before: RunConfig, after: RunConfig) -> list[str]:
    """Names of settings that differ and may not: 'encoder.width 128 → 192'."""
    old, new = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    free = {f"training.{name}" for name in FREE_TO_CHANGE}
    return [
        f"{name} {old.get(name)} → {new.get(name)}"
        for name in old | new
        if name not in free and old.get(name) != new.get(name)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def to_yaml(config: BaseModel) -> str:
    """The whole config, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def load_config(path: Path) -> RunConfig:
    """Read the config of a pre-training run; raises WrongRequest for a file that is not one."""
    return read_config(path, RunConfig)


Config = TypeVar("Config", bound=BaseModel)


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read a config of any kind; raises WrongRequest for a file that is not one."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return kind.model_validate(content)
    except OSError as error:
        raise WrongRequest(f"{path} cannot be read ({error.strerror}): give the config.yaml of a run") from error
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise WrongRequest(f"{path} is not a valid config: {first_line(error)}") from error


def filled(chosen: Config, asked: Config) -> Config:
    """What was chosen, with everything that was set by whoever asked."""
    changes: dict[str, Any] = {}
    for name in asked.model_fields_set:
        given, had = getattr(asked, name), getattr(chosen, name)
        changes[name] = filled(had, given) if isinstance(had, BaseModel) and type(had) is type(given) else given
    return chosen.model_copy(update=changes)


def first_line(error: Exception) -> str:
    """What an error says, in one line: a validation error of its first fault, a worker's what happened there."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        return f"{'.'.join(map(str, fault['loc']))} {fault.get('input')!r}: {fault['msg']}"
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Original Traceback" in str(error) else lines[0]  # from a worker, its own error comes last
