"""A look at a few images before any work, so that what is wrong with all of them is said once, and at once.

    check_first(source, preprocessing, flag="--data")     # returns as soon as one image can be read

Single broken images are nobody's fault and are replaced or left out later; a folder of five-channel arrays read as
RGB is a wrong request.
"""

import numpy as np

from otherview.data.image import Preprocessing
from otherview.data.picture import picture_of
from otherview.data.source import Source
from otherview.errors import BrokenImage, WrongChannels, WrongRequest

LOOKED_AT = 12


def check_first(source: Source, preprocessing: Preprocessing, *, flag: str, fixed: bool = False) -> None:
    """Raise WrongRequest where none of some images, spread over the source, can be read; the first reason stands in it.

    `fixed` says that an encoder's number of channels is given and cannot be asked for.
    """
    faults: list[BrokenImage] = []
    for index in np.unique(np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).round().astype(int)):
        try:
            picture_of(source, int(index), preprocessing).decode()
        except BrokenImage as error:
            faults.append(error)
        else:
            return
    if not faults:
        return
    numbers = {fault.channels if isinstance(fault, WrongChannels) else None for fault in faults}
    if len(numbers) == 1 and (channels := numbers.pop()):
        wanted = preprocessing.channels
        remedy = (
            f"the encoder takes images of {wanted}"
            if fixed
            else f"add --encoder.channels {channels}, and for each channel --views.mean and --views.std, which "
            f"`otherview doctor --channels {channels}` measures"
        )
        raise WrongRequest(f"the images of {flag} have {channels} channels, not {wanted}: {remedy}")
    raise WrongRequest(
        f"none of {len(faults)} images of {flag} can be read, the first of them because {faults[0]}: "
        "`otherview doctor` says why for each"
    )
