"""Data sets that are folders of classes: synthetic shots, ImageNet's shifted test sets, the domains of DomainBed.

Papers: CaFo (arXiv 2303.02151), CoOp (2109.01134), DomainBed (2007.01434).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.data.annotations import IMAGES
from xmodal.data.lists import entries_of
from xmodal.evaluation.bench import Source
from xmodal.evaluation.coop_data import HINT
from xmodal.evaluation.facts import read_facts
from xmodal.evaluation.images import ListedImages
from xmodal.evaluation.splits import Item, Splits
from xmodal.registry import did_you_mean

COOP_NOTES = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
BED_NOTES = "https://github.com/facebookresearch/DomainBed (python -m domainbed.scripts.download)"


@dataclass(frozen=True)
class Shift:
    """A test set that shows ImageNet's classes in another way.

    Args:
        name: short name, as in configs.
        folder: below the data root; `image_dir` below it holds one folder per class.
        image_dir: see `folder`.
        counts: classes and images.
        numbered: folders are called by the class's number, not by its wnid.
    """

    name: str
    folder: str
    image_dir: str
    counts: tuple[int, int]
    numbered: bool = False


SHIFTS = read_facts("imagenet_shifts", Shift)


@dataclass(frozen=True)
class DomainSet:
    """A data set of DomainBed.

    Args:
        name: as DomainBed spells it.
        folder: below the data root.
        domains: its environments, as they are called in results, in alphabetical order of their folders.
        classes: number of classes.
    """

    name: str
    folder: str
    domains: tuple[str, ...]
    classes: int


DOMAINBED = read_facts("domainbed", DomainSet)


def read_folder(folder: str | Path, name: str = "") -> Splits:
    """All images below a folder with one folder per class, as `train` and as `test`.

    Args:
        folder: where the classes' folders are; classes in alphabetical order, `_` in their names is read as a blank.
        name: of the data set.

    Raises:
        ValueError: no such folder, or no images in it.
    """
    listing = IMAGES.read(folder, format="folders")
    classes = listing.classes or []
    items = [Item(s.sample_id, s.label, classes[s.label]) for s in listing.samples]
    return Splits(name or Path(folder).name, items, [], items, Path(folder))


def read_shift(root: str | Path, name: str) -> Splits:
    """One of ImageNet's shifted test sets; names come from its `classnames.txt`, else from ImageNet's.

    Raises:
        ValueError: an unknown name, missing files, or a folder that is no class.
    """
    if name not in SHIFTS:
        raise ValueError(f"no shifted set is called {name!r}; {did_you_mean(name, SHIFTS)}")
    about = SHIFTS[name]
    folder = Path(root) / about.folder
    listed = folder / "classnames.txt"
    lines = entries_of(listed if listed.is_file() else Path(root) / "imagenet" / "classnames.txt", HINT)
    names = dict(line.split(" ", 1) for line in lines)
    if about.numbered:
        names = {str(number): text for number, text in enumerate(names.values())}
    images = folder / about.image_dir
    if not images.is_dir():
        raise ValueError(f"no folder at {images}; {HINT}")
    present = {p.name for p in images.iterdir() if p.is_dir()}
    strange = sorted(present - set(names))
    if strange:
        raise ValueError(f"{images / strange[0]}: no class is called so; {did_you_mean(strange[0], names)}")
    order = [key for key in names if key in present]
    listing = IMAGES.read(images, format="folders", classes=order)
    items = [Item(s.sample_id, s.label, names[order[s.label]]) for s in listing.samples]
    return Splits(name, [], [], items, images)


def read_domain(root: str | Path, dataset: str, domain: str) -> Splits:
    """One domain of a data set of DomainBed, all of it as `train`; the protocol splits it.

    Args:
        root: the data root.
        dataset: one of `DOMAINBED`.
        domain: such as `A`; the data set's folders in alphabetical order are its domains.

    Raises:
        ValueError: an unknown data set or domain, or another number of folders than there are domains.
    """
    if dataset not in DOMAINBED:
        raise ValueError(f"DomainBed has no {dataset!r} here; {did_you_mean(dataset, DOMAINBED)}")
    about = DOMAINBED[dataset]
    if domain not in about.domains:
        raise ValueError(f"{dataset} has no domain {domain!r}; it has {', '.join(about.domains)}")
    folder = Path(root) / about.folder
    found = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if len(found) != len(about.domains):
        raise ValueError(f"{folder} should hold {len(about.domains)} domains, found {len(found)}; see {BED_NOTES}")
    return read_folder(found[about.domains.index(domain)], f"{dataset}/{domain}")


def shift_source(name: str, root: str | Path = "data") -> Source:
    """Build the source of one of ImageNet's shifted test sets."""
    images = ListedImages(read_shift(root, name), "test")
    return Source(name, images, test=images)


def domain_source(dataset: str, domain: str, root: str | Path = "data") -> Source:
    """Build the source of one domain of a data set of DomainBed."""
    return Source(domain, ListedImages(read_domain(root, dataset, domain), "train"))


def folder_source(name: str, folder: str | Path, **view: Any) -> Source:
    """Build a source of a folder with one folder of images per class; `view` as in `coop_source`."""
    splits = read_folder(folder)
    return Source(name, ListedImages(splits, "train", augment=True, **view), ListedImages(splits, "train"))
