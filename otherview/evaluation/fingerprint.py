"""What tells contents apart: fingerprints of image files and of weights.

train, test = (fingerprints_of(source, indices) for source, indices in splits)    # a word an image
refuse_shared(train, test, name_of=source.name)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from otherview.data.loader import settle_worker
from otherview.data.source import Source
from otherview.distributed import gather_objects, rank, ranks
from otherview.errors import BrokenImage, WrongRequest

Advance = Callable[[int], None]
"""Called with the number of images done."""


@dataclass(frozen=True)
class _Digests(Dataset[str]):
    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> str:
        try:
            return blake2b(self.source.read(int(self.indices[place])), digest_size=16).hexdigest()
        except BrokenImage:
            return ""


def fingerprints_of(
    source: Source, indices: np.ndarray, *, workers: int = 1, advance: Advance = lambda _: None
) -> list[str]:
    """A digest of every image's bytes, undecoded; empty where they cannot be read. Ranks share the work out."""
    mine = _Digests(source, np.array_split(indices, ranks())[rank()])
    found: list[str] = []
    for words in DataLoader(mine, batch_size=250, num_workers=workers, worker_init_fn=settle_worker):
        found += words
        advance(len(words) * ranks())
    return [word for part in gather_objects(found) for word in part]


def refuse_shared(train: Sequence[str], test: Sequence[str], *, name_of: Callable[[int], str]) -> None:
    """Raise WrongRequest at the first test image that is a training image too; `name_of` names a test image."""
    known = set(train) - {""}
    for place, word in enumerate(test):
        if word in known:
            raise WrongRequest(
                f"{name_of(place)} is in both the training and the test images, which would inflate the score: remove it "
                "from one side, or give --allow-shared"
            )


def weights_fingerprint(module: nn.Module) -> str:
    """Sixteen hexadecimal digits of a module's weights."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
