"""What keeps a whole encoder from learning labelled images by heart (specification 2). Torch-free."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class Regularisation:
    """The published recipe."""

    layer_decay: float = 0.65
    """The rate falls by this factor from each block to the one below."""
    drop_path: float = 0.1
    """Chance that the last block's branches are dropped; it rises linearly over the depth."""
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    erasing: float = 0.25
    """Chance that a part of an image is replaced by noise."""
