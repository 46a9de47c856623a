"""The eleven data sets of CoOp's protocol and its domain-shift sets: where files lie, how many, under which names.

Paper: CoOp (arXiv 2109.01134). Reused by CoCoOp, DPT, MVLPT, Tip-Adapter and CaFo.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from xmodal.data.lists import entries_of
from xmodal.evaluation.bench import Source
from xmodal.evaluation.facts import published, read_facts
from xmodal.evaluation.images import ListedImages
from xmodal.evaluation.splits import Item, Splits, read_split_file
from xmodal.registry import did_you_mean

SPLIT_NOTES = "the data notes (DATASETS.md) of the CoOp repository"
HINT = f"see {SPLIT_NOTES}"


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


COOP11 = read_facts("coop", CoopDataset)
IMAGENET_TEMPLATES = tuple(published()["tip_imagenet_templates"])


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


def coop_source(name: str, root: str | Path = "data", ensemble: bool = False, **view: Any) -> Source:
    """Build the source of a data set: augmented training views, test views of all splits, the hand-written sentence.

    Args:
        name: one of `COOP11`.
        root: the data root.
        ensemble: the seven sentences that Tip-Adapter and CaFo average on ImageNet instead.
        **view: of the training views, see `ListedImages`; `scale=(0.5, 1.0)` in Tip-Adapter and CaFo.
    """
    splits = read_coop(root, name)
    train = ListedImages(splits, "train", augment=True, **view)
    plain = {split: ListedImages(splits, split) for split in ("train", "val", "test")}
    templates = IMAGENET_TEMPLATES if ensemble else find_dataset(name).template
    return Source(name, train, plain["train"], plain["val"], plain["test"], templates)


def read_imagenet(folder: Path) -> Splits:
    """ImageNet by its folders and `classnames.txt` (`wnid name`); its validation images are both `val` and `test`."""
    names = dict(line.split(" ", 1) for line in entries_of(folder / "classnames.txt", HINT))
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
    label = {name: i for i, name in enumerate(entries_of(folder / "variants.txt", HINT))}
    parts = []
    for split in ("train", "val", "test"):
        pairs = [line.split(" ", 1) for line in entries_of(folder / f"images_variant_{split}.txt", HINT)]
        parts.append([Item(f"{image}.jpg", label[name], name) for image, name in pairs])
    return Splits("fgvc_aircraft", parts[0], parts[1], parts[2], folder / "images")
