"""`otherview embed`, `otherview convert` and `otherview export`: encoders that are used and travel."""

import sys
from typing import Any

from otherview.commands.command import Command
from otherview.evaluation.token_settings import EmbedSettings
from otherview.weights.settings import ConvertSettings, ExportSettings


def show_embedding(result: dict[str, Any]) -> list[str]:
    """Where it is and what is in it."""
    left = f", {result['left_out']} could not be read" if result["left_out"] else ""
    return [f"{result['out']}: {result['images']:,} images{left}, {result['tokens']} tokens of width {result['width']}"]


def show_converted(result: dict[str, Any]) -> list[str]:
    """How many tensors were taken, why the others were not, and the licence."""
    if result["licence"].lower() != "apache-2.0":
        print(f"mind the licence: {result['licence']}", file=sys.stderr)
    had = result["encoder"]
    where = f" in {result['container']}" if result["container"] else ""
    return [
        f"loaded {result['loaded']} of {result['of']} tensors{where}: {result['method']}, {result['branch']}",
        *(f"  {count} left: {reason}" for reason, count in result["left"].items()),
        f"{had['depth']} blocks, width {had['width']}, {had['heads']} heads, patch {had['patch_size']}, "
        f"{had['image_size'][0]}×{had['image_size'][1]} px, positions {had['positions']}",
        f"largest difference from timm's vision transformer on the same images: {result['difference']:.1e}",
        f"licence: {result['licence']}",
        result["out"],
    ]


def show_export(result: dict[str, Any]) -> list[str]:
    """Where it is, how far from ours, and how to load it."""
    return [
        result["out"],
        f"largest difference from ours on the same images: {result['difference']:.1e}",
        f"load it: {result['load']}",
    ]


COMMANDS = (
    Command(
        words="embed", what="features of images as parquet, npy or safetensors; the same command continues",
        settings=EmbedSettings, work="otherview.evaluation.embedding:embed", show=show_embedding,
    ),
    Command(
        words="convert", what="an encoder from other programs' checkpoints, every tensor accounted for",
        settings=ConvertSettings, work="otherview.weights.convert:convert", show=show_converted,
    ),
    Command(
        words="export", what="an encoder for timm, Hugging Face transformers or ONNX, compared with ours",
        settings=ExportSettings, work="otherview.weights.export:export", show=show_export,
    ),
)  # fmt: skip
