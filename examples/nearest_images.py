"""Embed a folder of images with the encoder that ships with otherview, and find what lies nearest to the first one.

python examples/nearest_images.py photos/
"""

import sys
from pathlib import Path

import torch

import otherview
from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.evaluation.features import extract


def main(data: str) -> None:
    """Print the names of the five nearest images."""
    encoder = otherview.load_encoder("reference:demo")
    source = open_source(data)
    features = extract(encoder.encoder, source, encoder.card.preprocessing).tokens["mean"]
    unit = torch.nn.functional.normalize(features - features.mean(dim=0), dim=1)
    order = (unit @ unit[0]).argsort(descending=True).tolist()
    print(f"nearest to {source.name(0)} ({picture_of(source, 0).width} px wide):")
    for index in order[1:6]:
        print(f"  {Path(source.name(index)).name}  {float(unit[index] @ unit[0]):.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "shapes:200")
