"""The settings of the methods: torch-free. Defaults are the paper's (specification 1.4 to 1.8)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from otherview.errors import WrongRequest


class _Method(BaseModel):
    """What every method's settings answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def check(self) -> None:
        """Raise WrongRequest where sizes do not fit each other."""

    def warnings(self, *, tokens: int) -> list[str]:
        """What is allowed but known to go wrong with `tokens` target tokens a step, with what to change."""
        return []

    def _check_width(self, part: str) -> None:
        """A transformer's width is shared out among its heads, and its positions have four parts."""
        width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
        if width % heads or width % 4:
            raise WrongRequest(f"method.{part}_width {width} must be divided by method.{part}_heads {heads} and by 4")


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
    predictor_depth: int = Field(default=4, ge=0)
    """Blocks of the predictor."""
    predictor_norm: Literal["batch", "layer"] = "batch"
    """The norm inside the predictor's blocks."""
    predictor_start: Literal["random", "zero"] = "random"
    """The predictor's last Linear at the start. zero (ours): predictions begin at nothing, and the encoder is not pulled
    about before there is something to predict; short runs of small models learn sooner."""
    loss: Literal["dense", "global_dense"] = "dense"
    """dense: the CVPR form; global_dense: the article's, with the two weights below."""
    negative_weight: float = Field(default=0.02, ge=0)
    """Weight of UniGrad's negative term. It is tied to the width: keep negative_weight · head_width near 15."""
    global_weight: float = Field(default=1.0, ge=0)
    dense_weight: float = Field(default=1.0, ge=0)
    momentum: float = Field(default=0.995, ge=0, le=1)
    """The target's momentum at the start; it rises to 1 along half a cosine."""

    def check(self) -> None:
        self._check_width("head")

    def warnings(self, *, tokens: int) -> list[str]:
        found = []
        width, weight = self.head_width, self.negative_weight
        if weight * width < 8:
            found.append(
                f"method.negative_weight {weight} × method.head_width {width} = {weight * width:.2g} is under 8: "
                f"targets may collapse to a few directions; use --method.negative-weight {15 / width:.2g}"
            )
        if tokens < 4 * width:
            found.append(
                f"{tokens:,} patches a step are under 4 × method.head_width {width}: too few tokens for C; "
                f"use {4 * width / tokens:.1f} times the --batch"
            )
        return found


class MAESettings(_Method):
    """Masked autoencoder, arXiv 2111.06377. The share of hidden patches is the views' (`views.mask`)."""

    name: Literal["mae"] = "mae"
    decoder_width: int = Field(default=512, ge=4)
    decoder_depth: int = Field(default=8, ge=0)
    decoder_heads: int = Field(default=16, ge=1)

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
    """The target's momentum at the start; it rises to 1 along half a cosine."""


MethodSettings = Annotated[SiameseIMSettings | MAESettings | MoCoV3Settings, Field(discriminator="name")]
"""Which method, by its name."""
