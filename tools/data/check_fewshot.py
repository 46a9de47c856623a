"""What of the few-shot protocols' data is under a folder: python tools/data/check_fewshot.py ROOT [NAME ...].

Names: CoOp's eleven data sets (the default), ImageNet's shifted sets (imagenetv2, imagenet_sketch, imagenet_a,
imagenet_r), DomainBed's four (PACS, VLCS, OfficeHome, TerraIncognita).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


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
    from xmodal.evaluation.coop_data import SPLIT_NOTES, find_dataset, read_coop
    from xmodal.evaluation.folders import DOMAINBED, SHIFTS
    from xmodal.evaluation.sampling import draw_coop
    from xmodal.evaluation.splits import split_hash

    if name in SHIFTS or name in DOMAINBED:
        return check_folders(root, name)
    about = find_dataset(name)
    try:
        splits = read_coop(root, name)
        counts = splits.counts()
    except (ValueError, OSError, KeyError) as error:
        print(f"MISSING  {name}: {error}\n         images: {about.source}; split file: {SPLIT_NOTES}")
        return False
    wrong = [f"{k} {got}, expected {want}" for k, got, want in zip(
        ("classes", "train", "val", "test"), counts, about.counts, strict=True
    ) if want is not None and got != want]  # fmt: skip
    absent = missing_images(splits, wanted)
    if absent:
        wrong.append(
            f"{len(absent)} of the images looked for are not there, the first is {splits.image_dir / absent[0]}"
        )
    parts = {s: [(i.path, i.label) for i in getattr(splits, s)] for s in ("train", "val", "test")}
    found = f"{counts[0]} classes, {counts[1]} / {counts[2]} / {counts[3]} images, split {split_hash(parts)}"
    if sample:
        train, val = draw_coop([i.label for i in splits.train], [i.label for i in splits.val], *sample)
        chosen = {"train": [parts["train"][i] for i in train], "val": [parts["val"][i] for i in val]}
        found += f", sample {split_hash(chosen)}"
    print(f"{'WRONG ' if wrong else 'OK    '}   {name}: {found}" + "".join(f"\n         {w}" for w in wrong))
    return not wrong


def check_folders(root: Path, name: str) -> bool:
    """The same for a shifted set of ImageNet or a data set of DomainBed."""
    from xmodal.evaluation.folders import BED_NOTES, COOP_NOTES, DOMAINBED, SHIFTS, read_domain, read_shift

    try:
        if name in SHIFTS:
            splits = [read_shift(root, name)]
        else:
            splits = [read_domain(root, name, domain) for domain in DOMAINBED[name].domains]
    except (ValueError, OSError) as error:
        print(f"MISSING  {name}: {error}\n         images: {COOP_NOTES if name in SHIFTS else BED_NOTES}")
        return False
    classes = [len({i.label for i in s.test}) for s in splits]
    expected = SHIFTS[name].counts if name in SHIFTS else (DOMAINBED[name].classes, None)
    wrong = [f"{s.dataset}: classes {n}, expected {expected[0]}" for s, n in zip(splits, classes, strict=True)
             if n != expected[0]]  # fmt: skip
    images = sum(len(s.test) for s in splits)
    if expected[1] is not None and images != expected[1]:
        wrong.append(f"images {images}, expected {expected[1]}")
    each = ", ".join(f"{s.dataset} {len(s.test)}" for s in splits)
    print(f"{'WRONG ' if wrong else 'OK    '}   {name}: {each} images" + "".join(f"\n         {w}" for w in wrong))
    return not wrong


def main(argv: list[str] | None = None) -> int:
    """Check; 0 when everything asked for is there and right, else 1."""
    args = parser().parse_args(argv)
    from xmodal.evaluation.coop_data import COOP11

    try:
        good = [check(args.root, name, args.files, args.sample) for name in args.names or COOP11]
    except ValueError as error:
        print(f"check_fewshot: {error}", file=sys.stderr)
        return 2
    print(f"{sum(good)} of {len(good)} data sets are there and right")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
