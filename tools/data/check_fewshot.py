"""Check which data of the few-shot protocols are under a folder: python tools/data/check_fewshot.py ROOT [NAME ...].

Names: CoOp's eleven data sets (the default), ImageNet's shifted sets (imagenetv2, imagenet_sketch, imagenet_a,
imagenet_r), DomainBed's four (PACS, VLCS, OfficeHome, TerraIncognita).
"""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("root", type=Path, help="the folder that holds caltech-101/, oxford_pets/, ...")
    p.add_argument("names", nargs="*", help="data sets; default: CoOp's eleven")
    p.add_argument("--files", type=int, default=50, help="images looked for in every split, evenly spread; 0 for all")
    p.add_argument("--sample", nargs=2, type=int, metavar=("SHOTS", "SEED"), help="print the hash of a few-shot sample")
    return p


def missing_images(splits, wanted: int) -> list[str]:
    """Paths of listed images that are not there."""
    missing = []
    for items in (splits.train, splits.val, splits.test):
        step = max(1, len(items) // wanted) if wanted else 1
        missing += [i.path for i in items[::step] if not (splits.image_dir / i.path).is_file()]
    return missing


def check(root: Path, name: str, wanted: int, sample: list[int] | None) -> bool:
    """Print what is right and wrong about one data set; True when nothing is wrong."""
    from xmodal.evaluation.folders import DOMAINBED, SHIFTS

    look = check_folders if name in SHIFTS or name in DOMAINBED else check_splits
    try:
        found, wrong = look(root, name, wanted, sample)
    except (ValueError, OSError, KeyError) as error:
        print(f"MISSING  {name}: {error}\n         {notes_of(name)}")
        return False
    print(f"{'WRONG ' if wrong else 'OK    '}   {name}: {found}" + "".join(f"\n         {w}" for w in wrong))
    return not wrong


def notes_of(name: str) -> str:
    """Say where the field gets a data set.

    Raises:
        ValueError: an unknown name.
    """
    from xmodal.evaluation.coop_data import SPLIT_NOTES, find_dataset
    from xmodal.evaluation.folders import BED_NOTES, COOP_NOTES, DOMAINBED, SHIFTS

    if name in SHIFTS or name in DOMAINBED:
        return f"images: {COOP_NOTES if name in SHIFTS else BED_NOTES}"
    return f"images: {find_dataset(name).source}; split file: {SPLIT_NOTES}"


def check_splits(root: Path, name: str, wanted: int, sample: list[int] | None) -> tuple[str, list[str]]:
    """Describe one of CoOp's data sets, and what is wrong with it."""
    from xmodal.evaluation.coop_data import find_dataset, read_coop
    from xmodal.evaluation.sampling import draw_coop
    from xmodal.evaluation.splits import split_hash

    splits = read_coop(root, name)
    counts = splits.counts()
    pairs = zip(("classes", "train", "val", "test"), counts, find_dataset(name).counts, strict=True)
    wrong = [f"{k} {got}, expected {want}" for k, got, want in pairs if want is not None and got != want]
    absent = missing_images(splits, wanted)
    if absent:
        where = splits.image_dir / absent[0]
        wrong.append(f"{len(absent)} of the images looked for are not there, the first is {where}")
    parts = {s: [(i.path, i.label) for i in getattr(splits, s)] for s in ("train", "val", "test")}
    found = f"{counts[0]} classes, {counts[1]} / {counts[2]} / {counts[3]} images, split {split_hash(parts)}"
    if sample:
        train, val = draw_coop([i.label for i in splits.train], [i.label for i in splits.val], *sample)
        chosen = {"train": [parts["train"][i] for i in train], "val": [parts["val"][i] for i in val]}
        found += f", sample {split_hash(chosen)}"
    return found, wrong


def check_folders(root: Path, name: str, wanted: int, sample: list[int] | None) -> tuple[str, list[str]]:
    """Describe a shifted set of ImageNet or a data set of DomainBed, and what is wrong with it."""
    from xmodal.evaluation.folders import DOMAINBED, SHIFTS, read_domain, read_shift

    if name in SHIFTS:
        splits, (classes, images) = [read_shift(root, name)], SHIFTS[name].counts
    else:
        splits = [read_domain(root, name, domain) for domain in DOMAINBED[name].domains]
        classes, images = DOMAINBED[name].classes, None
    counts = [(s.dataset, len({i.label for i in s.test}), len(s.test)) for s in splits]
    wrong = [f"{dataset}: classes {n}, expected {classes}" for dataset, n, _ in counts if n != classes]
    total = sum(n for *_, n in counts)
    wrong += [f"images {total}, expected {images}"] if images not in (None, total) else []
    return ", ".join(f"{dataset} {n}" for dataset, _, n in counts) + " images", wrong


def main(argv: list[str] | None = None) -> int:
    """Check; 0 when everything asked for is there and right, 1 when not, 2 for a name that is not known."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run
    from xmodal.evaluation.coop_data import COOP11

    good: list[bool] = []
    status = run(lambda: good.extend(check(args.root, n, args.files, args.sample) for n in args.names or COOP11))
    print(f"{sum(good)} of {len(good)} data sets are there and right")
    return status or int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
