"""A folder of images, anywhere below it; the first folder level names the class."""

import os
from pathlib import Path

from PIL import Image

from otherview.data.decode import decode
from otherview.errors import BrokenImage, WrongRequest

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


class Folder:
    """Images in the order of their paths; labels only where every image lies in a folder of the first level."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = sorted(
            os.path.relpath(Path(folder) / file, root)
            for folder, _, files in os.walk(root)
            for file in files
            if Path(file).suffix.lower() in ENDINGS
        )
        if not self.paths:
            raise WrongRequest(f"{root} holds no images: it needs files such as *.jpg or *.png, at any depth")
        levels = [Path(path).parts for path in self.paths]
        self.classes = sorted({parts[0] for parts in levels}) if all(len(parts) > 1 for parts in levels) else None
        number = {name: label for label, name in enumerate(self.classes or ())}
        self.labels = [number[parts[0]] for parts in levels] if self.classes else None

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        """The decoded file."""
        path = self.root / self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BrokenImage(f"{path}: {error.strerror}") from error
        return decode(data, str(path))

    def label(self, index: int) -> int | None:
        """The number of the folder, in sorted order."""
        return None if self.labels is None else self.labels[index]

    def name(self, index: int) -> str:
        """The path below the root."""
        return self.paths[index]
