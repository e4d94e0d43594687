"""Options that act on every transformer block of a learner: recomputing activations, compiling."""

from functools import partial

from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from otherview.training.settings import TrainingSettings


def trained_blocks(learner: nn.Module) -> list[Block]:
    """The blocks that take a gradient; the target's do not."""
    return [
        module
        for module in learner.modules()
        if isinstance(module, Block) and any(parameter.requires_grad for parameter in module.parameters())
    ]


def prepare_blocks(learner: nn.Module, settings: TrainingSettings) -> None:
    """Compile blocks and recompute their activations in the backward pass, where asked for; names stay as they are."""
    if settings.compile:
        for module in learner.modules():
            if isinstance(module, Block):
                module.compile()
    if settings.gradient_checkpointing:
        for block in trained_blocks(learner):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
