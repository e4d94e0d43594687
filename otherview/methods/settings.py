"""The settings of the methods: torch-free. Defaults are the paper's (specification 1.4 to 1.8)."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from otherview.errors import WrongRequest


class Rule(NamedTuple):
    """Where it holds, the settings that it names decide nothing."""

    holds: bool
    why: str
    names: Sequence[str]


def that_hold(rules: Sequence[Rule]) -> dict[str, str]:
    """The reason of every name for which a rule holds."""
    return {name: rule.why for rule in rules if rule.holds for name in rule.names}


class _Method(BaseModel):
    """What every method's settings answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def check(self) -> None:
        """Raise WrongRequest where sizes do not fit each other."""

    def unused(self) -> dict[str, str]:
        """Settings that decide nothing beside the others, and why."""
        return {}

    def warnings(self, *, images: int, patches: int) -> list[str]:
        """What is allowed but known to go wrong with so many images a step of so many patches, with what to change."""
        return []

    def _check_width(self, part: str) -> None:
        """A transformer's width is shared out among its heads, and its positions have four parts."""
        width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
        if width % heads or width % 4:
            raise WrongRequest(f"method.{part}_width {width} must be divisible by method.{part}_heads {heads} and by 4")


class SiameseIMSettings(_Method):
    """Siamese Image Modeling, arXiv 2206.01204."""

    name: Literal["siamese_im"] = "siamese_im"
    head_width: int = Field(default=768, ge=4)
    """Width of projector and predictor."""
    head_heads: int = Field(default=16, ge=1)
    """Attention heads of projector and predictor."""
    projector_depth: int = Field(default=2, ge=0)
    """Blocks of the projector after its Linear."""
    projector_norm: Literal["batch", "layer"] = "batch"
    """The norm inside the projector's blocks; batch: over all tokens of all ranks."""
    predictor_depth: int = Field(default=4, ge=1)
    """Blocks of the predictor."""
    predictor_norm: Literal["batch", "layer"] = "batch"
    """The norm inside the predictor's blocks."""
    predictor_start: Literal["random", "zero"] = "random"
    """The predictor's last Linear at the start. zero (ours): small models learn sooner in short runs."""
    target: Literal["features", "pixels"] = "features"
    """features: of the EMA encoder, after its projector (the paper); pixels: normalised per patch, mean squared error."""
    relative_position: Literal["position_and_scale", "position", "none"] = "position_and_scale"
    """What the predictor knows about where the target view lies: position and scale (the paper), position alone, or nothing."""
    condition_on_colour: bool = False
    """The predictor also knows the colour changes of both views."""
    loss: Literal["dense", "global_dense", "global", "info_nce"] = "dense"
    """dense: the CVPR form; global_dense: the article's; global: mean tokens alone; info_nce: dense, against all tokens, slow."""
    overlap_only: bool = False
    """Patches of the target view that lie outside the online view do not count; loss dense or target pixels only."""
    negative_weight: float = Field(default=0.02, ge=0)
    """Weight of UniGrad's negative term. It is tied to the width: keep negative_weight · head_width near 15."""
    global_weight: float = Field(default=1.0, ge=0)
    dense_weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.2, gt=0)
    """Of info_nce."""
    momentum: float = Field(default=0.995, ge=0, le=1)
    """The target's momentum at the start."""
    momentum_schedule: Literal["cosine", "constant", "none"] = "cosine"
    """cosine: it rises to 1 along half a cosine; constant: it stays; none: the target is the online branch itself."""

    def check(self) -> None:
        self._check_width("head")
        if self.target == "pixels" and self.loss != "dense":
            raise WrongRequest(
                f"method.loss {self.loss} needs method.target features: pixels always use the mean squared error"
            )
        if self.overlap_only and self.target == "features" and self.loss != "dense":
            raise WrongRequest(
                f"method.overlap_only needs method.loss dense, not {self.loss}: only dense predictions have a position"
            )

    def unused(self) -> dict[str, str]:
        pixels, loss = self.target == "pixels", self.loss
        rules = [
            Rule(pixels, "method.target pixels has no moving average", ("momentum", "momentum_schedule")),
            Rule(pixels, "method.target pixels cannot collapse", ("negative_weight",)),
            Rule(loss == "info_nce", "method.loss info_nce has negatives of its own", ("negative_weight",)),
            Rule(loss != "info_nce", f"method.loss is {loss}, not info_nce", ("temperature",)),
            Rule(loss != "global_dense", f"method.loss is {loss}, not global_dense", ("global_weight", "dense_weight")),
            Rule(self.momentum_schedule == "none", "method.momentum_schedule none uses no momentum", ("momentum",)),
            Rule(self.projector_depth == 0, "method.projector_depth 0 has no norm", ("projector_norm",)),
        ]
        return that_hold(rules)

    def warnings(self, *, images: int, patches: int) -> list[str]:
        found = []
        width, weight = self.head_width, self.negative_weight
        if self.target == "pixels" or self.loss == "info_nce":
            return found
        if weight * width < 8:
            found.append(
                f"method.negative_weight {weight} × method.head_width {width} = {weight * width:.2g} is under 8: "
                f"targets may collapse to a few directions; use --method.negative-weight {15 / width:.2g}"
            )
        means = self.loss in ("global", "global_dense")
        tokens, what = (images, "mean tokens") if means else (images * patches, "patches")
        if tokens < 4 * width:
            found.append(
                f"{tokens:,} {what} a step are under 4 × method.head_width {width}: too few tokens for C; "
                f"use --batch {-(-4 * width * images // tokens)} or more"
            )
        return found


class MAESettings(_Method):
    """Masked autoencoder, arXiv 2111.06377. The share of masked patches is that of the views (`views.mask.ratio`)."""

    name: Literal["mae"] = "mae"
    decoder_width: int = Field(default=512, ge=4)
    decoder_depth: int = Field(default=8, ge=1)
    """Blocks; with none, nothing visible could reach the masked patches."""
    decoder_heads: int = Field(default=16, ge=1)
    normalise_pixels: bool = True
    """Normalise the target pixels of every patch by its own mean and deviation (the paper's best setting)."""

    def check(self) -> None:
        self._check_width("decoder")


class MoCoV3Settings(_Method):
    """MoCo-v3, arXiv 2104.02057."""

    name: Literal["moco_v3"] = "moco_v3"
    hidden_width: int = Field(default=4096, ge=1)
    """Of projector and predictor."""
    output_width: int = Field(default=256, ge=1)
    """Of queries and keys."""
    temperature: float = Field(default=0.2, gt=0)
    momentum: float = Field(default=0.99, ge=0, le=1)
    """The target's momentum at the start."""
    momentum_schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: it rises to 1 along half a cosine; constant: it stays."""


class SupervisedSettings(_Method):
    """Supervised pre-training: the labels of the data are what is learned."""

    name: Literal["supervised"] = "supervised"
    classes: int | None = Field(default=None, ge=2)
    """How many; default: as many as the data has."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the label that is spread over all classes."""


MethodSettings = Annotated[
    SiameseIMSettings | MAESettings | MoCoV3Settings | SupervisedSettings, Field(discriminator="name")
]
"""Which method, by its name."""
