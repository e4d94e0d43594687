"""Encoder and projector: what the online and the target side share, and what the moving average moves."""

from torch import nn

from otherview.nn.encoder import Encoder


class Branch(nn.Module):
    """The two as one module with one state; each method says what goes from one to the other."""

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
