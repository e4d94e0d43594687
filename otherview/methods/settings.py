"""The settings of the methods: torch-free. Defaults are the paper's (specification 1.4 to 1.8)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from otherview.errors import WrongRequest


class SiameseIMSettings(BaseModel):
    """Siamese Image Modeling, arXiv 2206.01204."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        """Raise WrongRequest where sizes do not fit each other."""
        if self.head_width % self.head_heads or self.head_width % 4:
            raise WrongRequest(
                f"method.head_width {self.head_width} must be divided by method.head_heads {self.head_heads} and by 4"
            )
