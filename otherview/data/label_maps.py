"""What colours of label pictures stand for: label maps of several programs, and Pascal VOC's palette.

for colours, source in label_maps([Path("labels/")]): ...      # class by colour, as 65536 r + 256 g + b
"""

import re
from collections.abc import Sequence
from pathlib import Path

from otherview.data.objects import IGNORED


def _voc_palette() -> dict[int, int]:
    """Class by colour: bits of the class, spread over the three channels from the highest on; white borders count nowhere."""
    palette = {0xE0E0C0: IGNORED}
    for number in range(256):
        colour, rest = [0, 0, 0], number
        for shift in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (rest >> channel & 1) << shift
            rest >>= 3
        palette[colour[0] << 16 | colour[1] << 8 | colour[2]] = number
    return palette


VOC = _voc_palette()
MAP_LINE = re.compile(
    r"\s*([^#:,;\t]+?)\s*[:,;\t]\s*(\d{1,3})\s*[,;\t ]\s*(\d{1,3})\s*[,;\t ]\s*(\d{1,3})\s*(?:::?[^,]*)?"
)
IGNORED_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
LARGEST_MAP = 2**16
"""Bytes."""


def label_maps(folders: Sequence[Path]) -> list[tuple[dict[int, int], str]]:
    """Class by colour and the file's name, of every label map there is; the background, or the first line, is class 0."""
    found = []
    for folder in folders:
        for path in (folder / "labelmap.txt", folder / "label_colors.txt", *sorted(folder.glob("*.csv"))):
            if path.is_file() and path.stat().st_size <= LARGEST_MAP and (colours := _colours_in(path)):
                found.append((colours, str(path)))
    return found


def _colours_in(path: Path) -> dict[int, int]:
    """Nothing of a file that has other lines beside a heading and names with three numbers."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    matches = [MAP_LINE.fullmatch(line) for line in lines]
    rows = [match for match in matches if match and max(int(match[place]) for place in (2, 3, 4)) <= IGNORED]
    if not rows or len(rows) < len(lines) - 1 or len(rows) >= IGNORED:
        return {}
    rows.sort(key=lambda match: match[1].lower() != "background")
    numbers = iter(range(IGNORED))
    return {
        int(match[2]) << 16 | int(match[3]) << 8 | int(match[4]): (
            IGNORED if match[1].lower() in IGNORED_NAMES else next(numbers)
        )
        for match in rows
    }
