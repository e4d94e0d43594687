"""The head that names classes: layer norm and a Linear that begins at nearly nothing (specification 2)."""

from torch import nn


class ClassHead(nn.Sequential):
    """Mean token in, scores of the classes out."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.LayerNorm(width, eps=1e-6), last := nn.Linear(width, classes))
        self.classes = classes
        nn.init.trunc_normal_(last.weight, std=2e-5)
        nn.init.zeros_(last.bias)
