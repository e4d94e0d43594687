"""One self-contained page about a run or a comparison: no network, light and dark, readable on a phone.

Pictures are inside; curves are drawn by a script inside, from data inside: values on hover, series on and off by click,
tables sorted by a click on their heads. Without scripts the tables and pictures remain.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment
from markupsafe import Markup

from otherview.files import write_atomically
from otherview.report.glossary import asset, glossary_of, linked


class Chart(NamedTuple):
    """Lines over one axis; `series` holds points (x, y) by name."""

    title: str
    text: str
    x: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    levels: Mapping[str, float] = {}
    """Horizontal lines, by name."""


class Bar(NamedTuple):
    """A score in [0, 1] with its interval."""

    name: str
    value: float
    low: float
    high: float
    mine: bool = False
    """Whether it is the score that the others stand beside."""


class Bars(NamedTuple):
    """Scores beside their references, one below the other, and what they say."""

    title: str
    text: str
    bars: Sequence[Bar]


class Table(NamedTuple):
    """A table that a click sorts; cells are words or numbers as they are to be read."""

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A PNG with the sentence that explains it."""

    title: str
    text: str
    png: bytes


Part = Chart | Table | Picture | Bars


class Section(NamedTuple):
    """A question and what answers it."""

    title: str
    parts: Sequence[Part]


def write_page(
    path: Path,
    *,
    title: str,
    verdict: Sequence[str],
    facts: Sequence[tuple[str, str]],
    command: str,
    sections: Sequence[Section],
) -> None:
    """Write the page, atomically; sections without parts are left out. Of the `verdict` the first sentence matters most.

    The words of the glossary that stand in titles and texts lead to their explanation, at the end.
    """
    shown = [section for section in sections if section.parts]
    charts = [part for section in shown for part in section.parts if isinstance(part, Chart)]
    page = _template().render(
        title=title,
        verdict=verdict,
        facts=facts,
        command=command,
        sections=[(section.title, [_drawn(part, charts) for part in section.parts]) for section in shown],
        words=glossary_of(
            [title, *verdict, *(text for section in shown for part in section.parts for text in _words(part))]
        ),
        style=Markup(asset("page.css")),
        script=Markup(asset("page.js")),
        data=Markup(
            _embedded([{"x": chart.x, "series": _points(chart), "levels": dict(chart.levels)} for chart in charts])
        ),
    )
    write_atomically(path, page.encode())


def _points(chart: Chart) -> list[dict[str, Any]]:
    return [{"name": name, "points": [list(point) for point in points]} for name, points in chart.series.items()]


def _drawn(part: Part, charts: Sequence[Chart]) -> dict[str, Any]:
    """What the template needs of a part."""
    common = {"kind": type(part).__name__.lower(), "title": part.title, "text": part.text}
    match part:
        case Chart():
            return {**common, "number": next(place for place, one in enumerate(charts) if one is part)}
        case Table():
            return {**common, "head": part.head, "rows": part.rows}
        case Bars():
            return {**common, "bars": part.bars, "most": max([1.0, *(bar.high for bar in part.bars)])}
        case Picture():
            return {**common, "data": base64.b64encode(part.png).decode(), "wide": _width(part.png)}


def _words(part: Part) -> list[str]:
    """Everything that a part says in words."""
    names = [*part.series] if isinstance(part, Chart) else [*part.head] if isinstance(part, Table) else []
    names += [bar.name for bar in part.bars] if isinstance(part, Bars) else []
    return [part.title, part.text, *names]


def _width(png: bytes) -> int:
    """In pixels, from the header."""
    return int.from_bytes(png[16:20], "big")


def _embedded(content: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["linked"] = linked
    return environment.from_string(asset("page.html"))
