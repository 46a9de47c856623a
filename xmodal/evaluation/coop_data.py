"""The eleven data sets of CoOp's protocol and its domain-shift sets: where files lie, how many, under which names.

Paper: CoOp (arXiv 2109.01134). Reused by CoCoOp, DPT, MVLPT, Tip-Adapter and CaFo.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from xmodal.evaluation.bench import Source
from xmodal.evaluation.images import ListedImages
from xmodal.evaluation.splits import Item, Splits, read_split_file
from xmodal.registry import did_you_mean

IMAGENET_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
SPLIT_NOTES = "the data notes (DATASETS.md) of the CoOp repository"


@dataclass(frozen=True)
class CoopDataset:
    """One data set.

    Args:
        name: short name, as in configs.
        class_name: name in released results.
        folder: below the data root.
        image_dir: below `folder`.
        split_file: below `folder`, "" where there is none.
        counts: classes, training, validation and test items.
        template: the hand-written sentence.
        source: where the field gets the images.
    """

    name: str
    class_name: str
    folder: str
    image_dir: str
    split_file: str
    counts: tuple[int, int | None, int | None, int]
    template: str
    source: str


ROBOTS = "https://www.robots.ox.ac.uk/~vgg/data"
_ROWS = (
    ("imagenet", "ImageNet", "imagenet", "images", "", (1000, 1281167, None, 50000), "a photo of a {}.",
     "https://image-net.org (account needed), classnames.txt from the CoOp notes"),
    ("caltech101", "Caltech101", "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json",
     (100, 4128, 1649, 2465), "a photo of a {}.", "https://data.caltech.edu/records/mzrjq-6wc02"),
    ("oxford_pets", "OxfordPets", "oxford_pets", "images", "split_zhou_OxfordPets.json", (37, 2944, 736, 3669),
     "a photo of a {}, a type of pet.", f"{ROBOTS}/pets"),
    ("stanford_cars", "StanfordCars", "stanford_cars", "", "split_zhou_StanfordCars.json", (196, 6509, 1635, 8041),
     "a photo of a {}.", "mirrors of the Stanford cars set (the original host is gone)"),
    ("oxford_flowers", "OxfordFlowers", "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json",
     (102, 4093, 1633, 2463), "a photo of a {}, a type of flower.", f"{ROBOTS}/flowers/102"),
    ("food101", "Food101", "food-101", "images", "split_zhou_Food101.json", (101, 50500, 20200, 30300),
     "a photo of {}, a type of food.", "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"),
    ("fgvc_aircraft", "FGVCAircraft", "fgvc_aircraft", "images", "", (100, 3334, 3333, 3333),
     "a photo of a {}, a type of aircraft.", f"{ROBOTS}/fgvc-aircraft"),
    ("sun397", "SUN397", "sun397", "SUN397", "split_zhou_SUN397.json", (397, 15880, 3970, 19850), "a photo of a {}.",
     "https://vision.princeton.edu/projects/2010/SUN"),
    ("dtd", "DescribableTextures", "dtd", "images", "split_zhou_DescribableTextures.json", (47, 2820, 1128, 1692),
     "{} texture.", f"{ROBOTS}/dtd"),
    ("eurosat", "EuroSAT", "eurosat", "2750", "split_zhou_EuroSAT.json", (10, 13500, 5400, 8100),
     "a centered satellite photo of {}.", "https://madm.dfki.de/files/sentinel/EuroSAT.zip"),
    ("ucf101", "UCF101", "ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", (101, 7639, 1898, 3783),
     "a photo of a person doing {}.", "middle frames, from the CoOp notes"),
)  # fmt: skip
COOP11 = {row[0]: CoopDataset(*row) for row in _ROWS}

EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}
CALTECH_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


def clean_car(name: str) -> str:
    """The model year in front: `2012 Audi S4 Sedan`."""
    found = re.fullmatch(r"(.+) (\d{4})", name)
    return f"{found[2]} {found[1]}" if found else name


def clean_action(name: str) -> str:
    """CamelCase taken apart: `Apply_Eye_Makeup`."""
    return "_".join(re.findall(r"[A-Z][^A-Z]*", name)) or name


CLEANERS: dict[str, Callable[[str], str]] = {
    "caltech101": lambda name: CALTECH_NAMES.get(name, name),
    "eurosat": lambda name: EUROSAT_NAMES.get(name, name),
    "stanford_cars": clean_car,
    "ucf101": clean_action,
}


def clean_name(dataset: str, raw: str) -> str:
    """The class name that prompts use, out of the raw one (a folder's, say); underscores become spaces."""
    return CLEANERS.get(dataset, str)(raw).replace("_", " ")


def find_dataset(name: str) -> CoopDataset:
    """The data set called `name`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in COOP11:
        raise ValueError(f"no data set of this protocol is called {name!r}; {did_you_mean(name, COOP11)}")
    return COOP11[name]


@lru_cache(maxsize=4)  # a config asks once a split
def read_coop(root: str | Path, name: str) -> Splits:
    """The official splits of a data set below `root`.

    Raises:
        ValueError: an unknown name, or files that are missing.
    """
    about = find_dataset(name)
    folder = Path(root) / about.folder
    if name == "imagenet":
        return read_imagenet(folder)
    if name == "fgvc_aircraft":
        return read_aircraft(folder)
    return read_split_file(folder / about.split_file, name, folder / about.image_dir)


def coop_source(name: str, root: str | Path = "data", **view: Any) -> Source:
    """Build the source of a data set: augmented training views, test views of all splits, the hand-written sentence.

    Args:
        name: one of `COOP11`.
        root: the data root.
        **view: of the training views, see `ListedImages`; `scale=(0.5, 1.0)` in Tip-Adapter and CaFo.
    """
    splits = read_coop(root, name)
    train = ListedImages(splits, "train", augment=True, **view)
    plain = {split: ListedImages(splits, split) for split in ("train", "val", "test")}
    return Source(name, train, plain["train"], plain["val"], plain["test"], find_dataset(name).template)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        ValueError: no such file.
    """
    if not path.is_file():
        raise ValueError(f"no file at {path}; see {SPLIT_NOTES}")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_imagenet(folder: Path) -> Splits:
    """ImageNet by its folders and `classnames.txt` (`wnid name`); its validation images are both `val` and `test`."""
    names = dict(line.split(" ", 1) for line in read_lines(folder / "classnames.txt"))
    parts = []
    for part in ("train", "val"):
        base = folder / "images" / part
        wnids = sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
        parts.append(
            [
                Item(f"{part}/{wnid}/{path.name}", label, names[wnid])
                for label, wnid in enumerate(wnids)
                for path in sorted((base / wnid).iterdir())
            ]
        )
    return Splits("imagenet", parts[0], parts[1], parts[1], folder / "images")


def read_aircraft(folder: Path) -> Splits:
    """FGVC aircraft by its list of variants and `images_variant_<split>.txt`."""
    label = {name: i for i, name in enumerate(read_lines(folder / "variants.txt"))}
    parts = []
    for split in ("train", "val", "test"):
        pairs = [line.split(" ", 1) for line in read_lines(folder / f"images_variant_{split}.txt")]
        parts.append([Item(f"{image}.jpg", label[name], name) for image, name in pairs])
    return Splits("fgvc_aircraft", parts[0], parts[1], parts[2], folder / "images")
