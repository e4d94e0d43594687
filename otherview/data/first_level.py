"""Classes by folder: the first level of a name, where every image lies in one."""

import numpy as np

from otherview.data.index import NO_LABEL, TableWriter


class FirstLevel:
    """Numbers the first levels in the order they come, which is sorted where names are."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.flat = False

    def label(self, name: str) -> int:
        """The class of a name with '/' between its levels."""
        first, below, _ = name.partition("/")
        if not below:
            self.flat = True
            return NO_LABEL
        return self.numbers.setdefault(first, len(self.numbers))

    def finish(self, writer: TableWriter) -> None:
        """Name the classes, or take all labels back where images lie beside the folders."""
        if self.flat:
            writer.replace("label", np.full(len(writer), NO_LABEL))
        elif self.numbers:
            writer.name_classes(list(self.numbers))
        writer.close()
