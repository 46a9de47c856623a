"""The data sets of the benchmark: 20 for classification, and 35 for detection that are only listed.

Paper: ELEVATER (arXiv 2204.08790).
"""

import re
from dataclasses import dataclass


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


def _cards() -> dict[str, Card]:
    per_class = "mean-per-class"
    rows = (
        Card("caltech-101", 102, 3060, 0, 6084, per_class, 34),
        Card("cifar-10", 10, 50000, 0, 10000, templates=18),
        Card("cifar-100", 100, 50000, 0, 10000, templates=18),
        Card("country211", 211, 31650, 10550, 21100, templates=5),
        Card("dtd", 47, 1880, 1880, 1880, templates=8),
        Card("eurosat_clip", 10, 5000, 5000, 5000, templates=3),
        Card("fer-2013", 7, 28709, 3589, 3589, templates=6),
        Card("fgvc-aircraft-2013b-variants102", 100, 3334, 3333, 3333, per_class, 2),
        Card("food-101", 101, 75750, 0, 25250, templates=1),
        Card("gtsrb", 43, 26640, 12569, 12630, templates=3),
        Card("hateful-memes", 2, 8500, 0, 500, "roc_auc", 1),
        Card("kitti-distance", 4, 6347, 423, 711, templates=1, center_crop=False),
        Card("mnist", 10, 60000, 0, 10000, templates=1),
        Card("oxford-flower-102", 102, 1020, 1020, 6149, per_class, 1),
        Card("oxford-iiit-pets", 37, 3680, 0, 3669, per_class, 1),
        Card("patch-camelyon", 2, 262144, 32768, 32768, templates=1, search_shots=10000),
        Card("rendered-sst2", 2, 6920, 827, 1821, templates=1),
        Card("resisc45_clip", 45, 3150, 3150, 25200, templates=18),
        Card("stanford-cars", 196, 8144, 0, 8041, templates=8),
        Card(
            "voc-2007-classification", 20, 2501, 2510, 4952, "11point_mAP", 1, multilabel=True, aliases=("voc2007",)
        ),
    )  # fmt: skip
    return {card.name: card for card in rows}


CARDS = _cards()
REFERENCE = Card("imagenet-1k", 1000, 1281167, 0, 50000, templates=80)
DETECTION = (
    "AerialMaritimeDrone_large", "AerialMaritimeDrone_tiled", "AmericanSignLanguageLetters", "Aquarium", "BCCD",
    "boggleBoards", "brackishUnderwater", "ChessPieces", "CottontailRabbits", "dice", "DroneControl",
    "EgoHands_generic", "EgoHands_specific", "HardHatWorkers", "MaskWearing", "MountainDewCommercial",
    "NorthAmericaMushrooms", "openPoetryVision", "OxfordPets_by-breed", "OxfordPets_by-species", "Packages",
    "PascalVOC", "pistols", "PKLot", "plantdoc", "pothole", "Raccoon", "selfdrivingCar", "ShellfishOpenImages",
    "ThermalCheetah", "thermalDogsAndPeople", "UnoCards", "VehiclesOpenImages", "websiteScreenshots",
    "WildfireSmoke",
)  # fmt: skip


def plain(name: str) -> str:
    """A folder's or data set's name without its date and everything that is spelt in several ways."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"_\d{8}$", "", name).lower())
