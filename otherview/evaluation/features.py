"""Features: one pass of a frozen encoder over a source, in its order, without padding or duplicates.

    features = extract(encoder, source, look)     # {"cls": [N, D], "mean": [N, D]}

An image is resized so that its shorter side is the model's (bicubic, antialiased) and its centre is cut out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from otherview.data.loader import settle_worker
from otherview.data.picture import Look, Picture, picture_of
from otherview.data.source import Source
from otherview.geometry import Crop
from otherview.nn.encoder import Encoder
from otherview.views.crop import cut, least_scale, planes
from otherview.views.view import normalise

Advance = Callable[[int], None]
"""Called with the number of images done."""


def centre(image: Picture, size: tuple[int, int]) -> np.ndarray:
    """The centre of an image at `size` (height, width): uint8 [C, H, W]."""
    scale = max(size[0] / image.height, size[1] / image.width)
    height, width = max(1, round(size[0] / scale)), max(1, round(size[1] / scale))
    crop = Crop(
        float((image.height - height) // 2), float((image.width - width) // 2), float(height), float(width), False
    )
    pixels = image.decode(least_scale((crop,), size=size))
    return planes(cut(pixels, crop, of=(image.height, image.width), size=size), flipped=False)


@dataclass(frozen=True)
class _Centres(Dataset[np.ndarray]):
    source: Source
    indices: np.ndarray
    look: Look

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> np.ndarray:
        index = int(self.indices[place])
        return centre(picture_of(self.source, index, self.look.decoding), self.look.size)


def first_of(source: Source, count: int | None) -> np.ndarray:
    """Indices of `count` images spread evenly over the source; all of them by default."""
    if count is None or count >= len(source):
        return np.arange(len(source))
    return np.linspace(0, len(source) - 1, count).round().astype(np.int64)


@torch.no_grad()
def extract(
    encoder: Encoder | None,
    source: Source,
    look: Look,
    *,
    indices: np.ndarray | None = None,
    workers: int = 1,
    advance: Advance = lambda _: None,
) -> dict[str, Float[Tensor, "N D"]]:
    """cls and mean token of every image, float32 on the CPU; with `encoder` None the normalised pixels themselves."""
    indices = np.arange(len(source)) if indices is None else indices
    loader = DataLoader(
        _Centres(source, indices, look),
        batch_size=250,
        num_workers=workers,
        worker_init_fn=settle_worker,
    )
    if encoder is not None:
        encoder.eval()
    found: dict[str, list[Tensor]] = {}
    for pixels in loader:
        device = pixels.device if encoder is None else next(encoder.parameters()).device
        images = normalise(pixels.to(device), look.mean, look.std)
        if encoder is None:
            kinds = {"pixels": images.flatten(1)}
        else:
            tokens = encoder(images)
            kinds = {"mean": tokens.mean, "cls": tokens.cls}
        for name, value in kinds.items():
            found.setdefault(name, []).append(value.float().cpu())
        advance(len(pixels))
    return {name: torch.cat(values) for name, values in found.items()}
