"""Options that act on every transformer block of a learner: recomputing activations, compiling."""

from functools import partial

from timm.models.vision_transformer import Block
from timm.models.vision_transformer_sam import Block as WindowedBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

from otherview.training.settings import TrainingSettings

BLOCKS = Block, WindowedBlock


def trained_blocks(learner: nn.Module) -> list[nn.Module]:
    """The blocks that take a gradient; the target's do not."""
    return [
        module
        for module in learner.modules()
        if isinstance(module, BLOCKS) and any(parameter.requires_grad for parameter in module.parameters())
    ]


def prepare_blocks(learner: nn.Module, settings: TrainingSettings) -> None:
    """Compile blocks and recompute their activations in the backward pass, where asked for; names stay as they are."""
    if settings.compile:
        for module in learner.modules():
            if isinstance(module, BLOCKS):
                module.compile()
    if settings.gradient_checkpointing:
        for block in trained_blocks(learner):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
