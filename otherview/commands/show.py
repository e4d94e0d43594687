"""`otherview show …`: pictures."""

from typing import Any

from otherview.commands.command import Command
from otherview.evaluation.token_settings import (
    AttentionSettings,
    ComponentsSettings,
    MatchesSettings,
    NeighboursSettings,
)
from otherview.report.settings import CorrespondenceSettings, MasksSettings, ViewsSettings


def show_picture(result: dict[str, Any]) -> list[str]:
    """Where the picture is, and the share of patches found where that was looked for."""
    if "found" not in result:
        return [result["picture"]]
    return [
        result["picture"],
        f"{result['found']:.1%} ± {result['spread']:.1%} of the patches found (n = {result['n']})",
    ]


def _picture(name: str, what: str, settings: type, *, of_views: bool = False) -> Command:
    room = "report.view_pictures" if of_views else "evaluation.token_pictures"
    recipe = "siamese_im_vit_b16" if of_views else None
    work = f"otherview.{room}:{name}"
    return Command(words=f"show {name}", what=what, settings=settings, work=work, show=show_picture, recipe=recipe)


COMMANDS = (
    _picture("views", "the two views of some images, as the learner sees them", ViewsSettings, of_views=True),
    _picture("masks", "some masks, and how often each patch is masked", MasksSettings, of_views=True),
    _picture(
        "correspondence", "where the patches of one view fall in the other", CorrespondenceSettings, of_views=True
    ),
    _picture("attention", "what the cls token attends to, head by head", AttentionSettings),
    _picture("components", "principal components of patch tokens as colours", ComponentsSettings),
    _picture("matches", "patches of one view and what is most like them in another", MatchesSettings),
    _picture("neighbours", "images beside those that lie nearest to them", NeighboursSettings),
)
