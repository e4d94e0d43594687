"""The settings of training: torch-free. Defaults are the paper's (specification 1.9)."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

DeviceName = Literal["auto", "cpu", "cuda", "mps", "xpu"]


@dataclass(kw_only=True)
class ComputeSettings:
    """Where something is computed."""

    device: DeviceName = "auto"
    """Where to compute: cuda (NVIDIA, AMD), mps (Apple), xpu (Intel) or cpu; auto takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads; default: all cores."""


class TrainingSettings(BaseModel):
    """Optimiser, schedule and how the run is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimiser: Literal["adamw", "muon"] = "adamw"
    """adamw (the paper), or muon (ours): orthogonal steps for weight matrices; small models learn sooner in short runs."""
    lr_per_256: float = Field(default=6.25e-5, gt=0)
    """Learning rate for a batch of 256; the peak rate is this times batch / 256."""
    min_lr: float = Field(default=0.0, ge=0)
    """The rate at the end of the run."""
    warmup: float = Field(default=0.025, ge=0, lt=1)
    """Share of the run in which the rate rises linearly from 0; then half a cosine down to the least."""
    encoder_waits: float | None = Field(default=None, ge=0, lt=0.5)
    """Share of the run in which the encoder keeps still; after it, the rate rises for as long. Default with --init: 0.1."""
    encoder_lr: float = Field(default=1.0, gt=0)
    """Learning rate of the encoder, in parts of the heads'."""
    l2_to_start: float = Field(default=0.0, ge=0)
    """How strongly the encoder is drawn to the weights it started from: by so many parts of the rate at every step."""
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW, also where muon leaves parameters to it."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm; none: no clipping."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: autocast with norms, loss and moving average in float32. fp32 is faster on most CPUs."""
    gradient_checkpointing: bool = False
    """Keep no activations inside blocks and compute them again in the backward pass: less memory, a third more time."""
    compile: Literal["off", "blocks", "whole"] = "off"
    """Use torch.compile: off, blocks (of the transformers) or whole (forward pass, targets, loss). The first step is slow."""
    deterministic: bool = False
    """On a GPU, take algorithms that give the same bits every time, where torch has them; slower."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches per optimiser step."""
    stop_on_collapse: bool = False
    """End the run (status 1) when its verdict is collapse."""
    collapse_after: int = Field(default=1500, ge=1)
    """Steps before a low rank is called a collapse: every run starts with a low rank."""
    max_skipped: int = Field(default=10, ge=1)
    """The run ends after so many steps in a row whose loss or gradient norm is not finite; each is skipped."""
    max_broken: float = Field(default=0.1, ge=0, le=1)
    """The run stops when more than this share of the images read so far is broken."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl; each needs its package."""
    workers: int = Field(default=8, ge=0)
    """Processes that read and augment images."""
    log_every: int = Field(default=20, ge=1)
    """Steps between lines of metrics.jsonl."""
    save_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    keep_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints that are kept beside the last two; none: only those two."""

    @field_validator("compile", mode="before")
    @classmethod
    def _was_a_switch(cls, value: object) -> object:
        """Older configs have true or false."""
        return {True: "blocks", False: "off"}[value] if isinstance(value, bool) else value

    @property
    def of_a_start(self) -> list[str]:
        """Names of the settings of OF_A_START that are not as by default."""
        return [name for name in OF_A_START if getattr(self, name) != type(self).model_fields[name].default]

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is written after so many steps."""
        return step % self.save_every == 0 or self.keeps_at(step)

    def keeps_at(self, step: int) -> bool:
        """Whether that one is kept."""
        return self.keep_every is not None and step % self.keep_every == 0


OF_A_START = "encoder_waits", "encoder_lr", "l2_to_start"
"""Settings that a run has only where it starts from weights."""
FREE_TO_CHANGE = frozenset((
    "trackers", "stop_on_collapse", "collapse_after", "max_skipped", "max_broken", "workers", "log_every", "save_every",
    "keep_every",
))  # fmt: skip
"""Settings that may differ between a run's start and its continuation."""
