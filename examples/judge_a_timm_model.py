"""Judge anybody's encoder by the protocols of otherview: here a small vision transformer of timm's with random weights.

python examples/judge_a_timm_model.py
"""

import timm

import otherview


def main() -> None:
    """kNN and few-shot accuracy on drawn images, beside raw pixels and the module's untrained twin."""
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 3, "num_heads": 3, "num_classes": 0}
    model, twin = (timm.create_model("vit_tiny_patch16_224", **sizes) for _ in range(2))
    judged = otherview.backbone(model, size=(32, 32), untrained=twin, name="a timm model")
    found = otherview.evaluate.knn(judged, train="shapes:400:val", test="shapes:200:test", cache=False)
    for score in [*found.scores, *found.control]:
        print(f"{score.name:22} {score.value:.3f} ± {score.spread:.3f}")


if __name__ == "__main__":
    main()
