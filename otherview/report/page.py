"""One self-contained page about a run: no network, light and dark, readable on a phone."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment
from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure with the sentence that explains it."""

    title: str
    text: str
    figure: Figure


TEMPLATE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem; text-align: left; border-bottom: 1px solid #8886; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; background: white; border-radius: .4rem; }
pre { overflow-x: auto; background: #8882; padding: .6rem; border-radius: .4rem; }
.verdict { font-size: 1.2rem; border-left: .3rem solid #888; padding-left: .8rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="verdict">{{ verdict }}</p>
<pre>{{ command }}</pre>
<table>
<tr><th>accuracy on images never seen</th><th></th></tr>
{% for name, value in scores.items() %}<tr><td>{{ name }}</td><td class="number">{{ value }}</td></tr>
{% endfor %}</table>
{% for picture in pictures %}<h2>{{ picture.title }}</h2>
<p>{{ picture.text }}</p>
<img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.data }}">
{% endfor %}
</body>
</html>
""")


def write_page(
    path: Path, *, title: str, verdict: str, command: str, scores: Mapping[str, str], pictures: Sequence[Picture]
) -> None:
    """Write the page with its pictures inside."""
    drawn = [{"title": p.title, "text": p.text, "data": _base64(p.figure)} for p in pictures]
    page = TEMPLATE.render(title=title, verdict=verdict, command=command, scores=scores, pictures=drawn)
    path.write_text(page, encoding="utf-8")


def _base64(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
