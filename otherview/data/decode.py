"""From bytes to what a person would see: RGB, upright, alpha over white."""

import io

from PIL import Image, ImageOps

from otherview.errors import BrokenImage


def decode(data: bytes, name: str) -> Image.Image:
    """Decode an image file; anything that cannot be read, a decompression bomb included, raises BrokenImage."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return _as_seen(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError, KeyError, IndexError) as error:
        raise BrokenImage(f"{name}: {error or type(error).__name__}") from error


def _as_seen(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
