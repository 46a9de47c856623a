"""What of CoOp's eleven data sets is under a folder: python tools/data/check_fewshot.py ROOT [NAME ...]."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("root", type=Path, help="the folder that holds caltech-101/, oxford_pets/, ...")
    p.add_argument("names", nargs="*", help="data sets; default: all eleven")
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
    from xmodal.protocols.coop_data import SPLIT_NOTES, find_dataset, read_coop
    from xmodal.protocols.items import split_hash
    from xmodal.protocols.sampling import draw_coop

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


def main(argv: list[str] | None = None) -> int:
    """Check; 0 when everything asked for is there and right, else 1."""
    args = parser().parse_args(argv)
    from xmodal.protocols.coop_data import COOP11

    try:
        good = [check(args.root, name, args.files, args.sample) for name in args.names or COOP11]
    except ValueError as error:
        print(f"check_fewshot: {error}", file=sys.stderr)
        return 2
    print(f"{sum(good)} of {len(good)} data sets are there and right")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
