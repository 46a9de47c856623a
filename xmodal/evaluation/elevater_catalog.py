"""The data sets of the benchmark: 20 for classification, and 35 for detection that are only listed.

Paper: ELEVATER (arXiv 2204.08790).
"""

import re
from dataclasses import dataclass

from xmodal.evaluation.facts import published, read_facts


@dataclass(frozen=True)
class Card:
    """Describe a data set of the benchmark.

    Args:
        name: as the benchmark spells it.
        classes: K.
        train: images published for training.
        val: images published for validation, which the protocol does not use; 0 for none.
        test: images the score is of.
        metric: a name in `metrics.MEASURES`.
        templates: prompt sentences published for it.
        multilabel: an image has several classes.
        center_crop: False squeezes the whole image into the square.
        search_shots: images a class that the search of a full-shot run is held on, None for all.
        aliases: other names of its folder.
    """

    name: str
    classes: int = 0
    train: int = 0
    val: int = 0
    test: int = 0
    metric: str = "accuracy"
    templates: int = 0
    multilabel: bool = False
    center_crop: bool = True
    search_shots: int | None = None
    aliases: tuple[str, ...] = ()


CARDS = read_facts("elevater", Card)
REFERENCE = CARDS.pop("imagenet-1k")
DETECTION: list[str] = published()["elevater_detection"]


def plain(name: str) -> str:
    """A folder's or data set's name without its date and everything that is spelt in several ways."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"_\d{8}$", "", name).lower())
