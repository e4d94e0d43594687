"""The pictures of a run's page: the views before it begins, what the encoder makes of images when it has ended."""

from pathlib import Path

from otherview.config import RunConfig
from otherview.data.source import Source
from otherview.evaluation.token_pictures import attention_figure, components_figure
from otherview.launch import launched_rank
from otherview.methods.settings import MoCoV3Settings, SiameseIMSettings
from otherview.report import pictures
from otherview.report.run_page import PICTURES, keep_picture, said_and_passed_over
from otherview.report.settings import ViewsSettings
from otherview.report.view_pictures import grid_of, pairs_of
from otherview.weights.names import load_encoder

VIEWS = (
    "What the learner sees.\nTwo crops of one image; the online view is masked, the target view has to be predicted."
)
PLACES = "Where the patches fall.\nThe predictor knows only where the target view lies relative to the online view."
COMPONENTS = (
    "What patches share.\nTheir first three principal components as red, green and blue, one basis over many images, less what "
    "all have at a position: parts that mean the same should have one colour."
)
ATTENTION = "What the cls token attends to.\nIn the last block, head by head; bright is much."


def draw_first_pictures(folder: Path, config: RunConfig, source: Source) -> None:
    """Views and their correspondence, once, for methods with two views."""
    two = isinstance(config.method, SiameseIMSettings | MoCoV3Settings)
    if launched_rank() > 0 or not two or config.encoder.channels != 3 or _has(folder, "1-views"):
        return
    settings = ViewsSettings(config=config, data=str(folder), count=4)
    with said_and_passed_over():
        images, pairs = pairs_of(settings, source)
        grid = grid_of(config)
        keep_picture(folder, "1-views", pictures.draw_views(images, pairs, grid), VIEWS)
        keep_picture(folder, "2-places", pictures.draw_correspondence(pairs[:2], grid), PLACES)


def draw_last_pictures(folder: Path, source: Source) -> None:
    """What the trained encoder makes of the first images."""
    if launched_rank() > 0:
        return
    loaded = load_encoder(folder)
    if loaded.card.encoder.channels != 3:
        return
    with said_and_passed_over():
        keep_picture(folder, "3-components", components_figure(loaded, source, 0, 6), COMPONENTS)
        keep_picture(folder, "4-attention", attention_figure(loaded, source, 0, 3), ATTENTION)


def _has(folder: Path, name: str) -> bool:
    return (folder / PICTURES / f"{name}.png").exists()
