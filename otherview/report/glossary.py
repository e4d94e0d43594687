"""The special words of a page, explained at its end: each is a link with a tooltip. No network."""

import re
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

from markupsafe import Markup, escape


class Word(NamedTuple):
    """A word as it stands on a page, and what it means."""

    word: str
    meaning: str

    @property
    def anchor(self) -> str:
        """Where the page explains it."""
        return "word-" + re.sub(r"\W+", "-", self.word.lower())


def asset(name: str) -> str:
    """A text that pages are made of."""
    return resources.files("otherview.report").joinpath("assets", name).read_text(encoding="utf-8")


WORDS = [Word(*line.split(": ", 1)) for line in asset("glossary.txt").splitlines()]
_BY_WORD = {one.word.lower(): one for one in WORDS}
_PATTERN = re.compile(
    r"(?<!\w)(" + "|".join(re.escape(one.word) for one in sorted(WORDS, key=lambda one: -len(one.word))) + r")(?!\w)",
    re.IGNORECASE,
)


def glossary_of(texts: Iterable[str]) -> list[Word]:
    """The words that these texts have, as they stand in the list."""
    found = {match.group(1).lower() for text in texts for match in _PATTERN.finditer(text)}
    return [one for one in WORDS if one.word.lower() in found]


def linked(text: str) -> Markup:
    """The text with its special words as links to their explanation, which is the tooltip too; everything is escaped."""
    parts, end = list[Markup | str](), 0
    seen = set[str]()
    for match in _PATTERN.finditer(text):
        word = _BY_WORD[match.group(1).lower()]
        if word.anchor in seen:
            continue
        seen.add(word.anchor)
        link = Markup('<a class="word" href="#{}" title="{}">{}</a>').format(word.anchor, word.meaning, match.group(1))
        parts += [escape(text[end : match.start()]), link]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])
