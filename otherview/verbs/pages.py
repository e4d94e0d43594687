"""The run's page while it trains: pictures at the start and at the end, report.html refreshed in between."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from otherview.config import RunConfig
from otherview.errors import BrokenImage
from otherview.methods.settings import MoCoV3Settings, SiameseIMSettings
from otherview.training.launch import launched_rank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from otherview.data.source import Source
    from otherview.learner import Learner

VIEWS = "What the learner sees.\nTwo crops of one image; the seen view is masked, the other has to be predicted."
PLACES = "Where the patches fall.\nThe predictor is told only where the other view lies relative to the seen one."
COMPONENTS = (
    "What patches share.\nTheir first three principal components as red, green and blue, one basis over many images, less what "
    "all have at a position: parts that mean the same should have one colour."
)
ATTENTION = "What the cls token attends to.\nIn the last block, head by head; bright is much."


class Page:
    """An Observer that rewrites report.html; a page that cannot be written does not end a run."""

    def __init__(self, folder: Path, *, every: int) -> None:
        self.folder, self.every = folder, every

    def see(self, step: int, learner: "Learner") -> Mapping[str, float]:
        refresh_page(self.folder)
        return {}


def refresh_page(folder: Path) -> None:
    """Rewrite report.html of a run folder; rank 0 alone. A fault is said, nothing more."""
    if launched_rank() > 0 or not (folder / "config.yaml").exists():
        return
    from otherview.report.run_page import write_run_page

    with _said():
        write_run_page(folder)


@contextmanager
def _said() -> Iterator[None]:
    """A full disk or an image that cannot be read costs a picture or a page, never the run: it is said."""
    try:
        yield
    except (OSError, ValueError, BrokenImage) as error:
        print(f"a picture or the page is left out: {error}", file=sys.stderr)


def draw_first_pictures(folder: Path, config: RunConfig, source: "Source") -> None:
    """Views and their correspondence, once, for methods with two views."""
    two = isinstance(config.method, SiameseIMSettings | MoCoV3Settings)
    if launched_rank() > 0 or not two or config.encoder.channels != 3 or _has(folder, "1-views"):
        return
    from otherview.report import pictures
    from otherview.verbs.show import ShowViews, grid_of, pairs_of

    request = ShowViews(config=config, data=str(folder), count=4)
    with _said():
        images, pairs = pairs_of(request, source)
        grid = grid_of(config)
        keep(folder, "1-views", pictures.draw_views(images, pairs, grid), VIEWS)
        keep(folder, "2-places", pictures.draw_correspondence(pairs[:2], grid), PLACES)


def draw_last_pictures(folder: Path, source: "Source") -> None:
    """What the trained encoder makes of the first images."""
    from otherview.verbs.show_tokens import attention_figure, components_figure
    from otherview.weights.pretrained import load_encoder

    if launched_rank() > 0:
        return
    loaded = load_encoder(folder)
    if loaded.card.encoder.channels != 3:
        return
    with _said():
        keep(folder, "3-components", components_figure(loaded, source, 0, 6), COMPONENTS)
        keep(folder, "4-attention", attention_figure(loaded, source, 0, 3), ATTENTION)


def _has(folder: Path, name: str) -> bool:
    from otherview.report.run_page import PICTURES

    return (folder / PICTURES / f"{name}.png").exists()


def keep(folder: Path, name: str, figure: "Figure", words: str) -> None:
    """A picture for the page, and the words that explain it."""
    import matplotlib.pyplot as plt

    from otherview.report.run_page import PICTURES

    (folder / PICTURES).mkdir(exist_ok=True)
    figure.savefig(folder / PICTURES / f"{name}.png", dpi=110)
    (folder / PICTURES / f"{name}.txt").write_text(words, encoding="utf-8")
    plt.close(figure)
