"""What people write as a label becomes a number and, where it is a word, a name.

    labels = Labels()
    writer.add("a.jpg", label=labels.add("cat"))        # of every row; None, "" and nan are no label
    labels.finish(writer)                               # now all are known: numbers as they are, words in sorted order

`3`, `3.0` and `"3"` are the class 3; `01` is a word, for it may be another class than `1`. A list or a row of columns
with a single 1 is the place of that 1.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from otherview.data.index import NO_LABEL, TableWriter

WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9]\d{0,17}))(?:\.0+)?")
MISSING = frozenset(("", "nan", "null", "<na>"))
"""Words for no label, in small letters."""


class Labels:
    """Labels as they come, numbered once all are known."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self.odd = 0
        """Labels that are none of one class, for instance lists of several."""

    def add(self, label: Any) -> int:
        """What stands for the label until the end."""
        word = self._word(label)
        word = "" if word.lower() in MISSING else unicodedata.normalize("NFC", word)
        return self._places.setdefault(word, len(self._places))

    def _word(self, label: Any) -> str:
        match label:
            case None:
                return ""
            case bytes():
                return label.decode(errors="replace").strip()
            case bool() | int():
                return str(int(label))
            case float():
                return str(int(label)) if math.isfinite(label) and label == int(label) else str(label)
            case str():
                return label.strip()
            case dict() | list() | tuple():
                hot = hot_place(label) if not isinstance(label, dict) else None
                self.odd += hot is None
                return "" if hot is None else str(hot)
        return str(label)

    def finish(self, writer: TableWriter, *, names: Sequence[str] | None = None) -> None:
        """Put the numbers into the column `label` and name the classes; `names` are those that numbers stand for."""
        known = sorted(word for word in self._places if word)
        matches = [WHOLE_NUMBER.fullmatch(word) for word in known]
        if all(matches):
            numbers = {word: max(NO_LABEL, int(match[1])) for word, match in zip(known, matches, strict=True) if match}
            if names and max(numbers.values(), default=0) >= len(names):
                writer.note(
                    f"a label is {max(numbers.values())}, where {len(names)} classes have names: they are called by numbers"
                )
                names = None
        else:
            numbers, names = {word: number for number, word in enumerate(known)}, known
        if len(writer):
            found = np.array([numbers.get(word, NO_LABEL) for word in self._places])
            below = np.array([word.startswith("-") and bool(WHOLE_NUMBER.fullmatch(word)) for word in self._places])
            if all(matches) and (negative := int(below[writer.column("label")].sum())):
                writer.note(
                    f"{negative:,} labels are negative numbers, which are no classes: such images have no label"
                )
            writer.replace("label", found[writer.column("label")])
        if names and known:
            writer.name_classes(names)
        if self.odd:
            writer.note(f"{self.odd:,} labels name no single class and count as none")


def hot_place(values: Sequence[Any]) -> int | None:
    """The place of the only 1 among zeros, or the only value there is; None for anything else."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    if len(numbers) == 1 and numbers[0].is_integer():
        return int(numbers[0])
    return numbers.index(1.0) if numbers.count(1.0) == 1 and numbers.count(0.0) == len(numbers) - 1 else None
