"""Write a config for your own files: python tools/new.py my/videos.

Looks at the data (layout, classes, counts, sizes, lengths, broken files, equal files in two splits), splits them where
there is no split, and writes one config with everything filled in beside the lists of the splits. FOLDER_OR_LIST is a
folder of classes, a folder of splits, a list `path label`, a table with a head line, Kinetics' CSV, Something-Something
v2's JSON; a video may be a folder of frames, and a file may have several classes.
"""

import argparse
import sys


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", metavar="FOLDER_OR_LIST", help="your files")
    p.add_argument("--task", choices=("video", "image", "cloud"), help="default: told from the files")
    p.add_argument("--encoder", help="tiny-clip (ships with xmodal), a name of open_clip or timm, or a folder")
    p.add_argument("--method", help="st-adapter, evl, probe, attentive-probe, lora, conv-adapter, finetune or epcl")
    p.add_argument("--out", metavar="CONFIG", help="the config to write; default: NAME.py of the folder or list")
    p.add_argument("--root", help="folder that the paths of a list start from; default: tried")
    p.add_argument("--classes", metavar="FILE", help="class names by number, one a line, where the list has numbers")
    p.add_argument("--seed", type=int, default=0, help="of the split (0)")
    p.add_argument("--workers", type=int, help="processes that look at the files")
    return p


def main(argv: list[str] | None = None) -> int:
    """Write; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.command import spoken
    from xmodal.engine.launch import run
    from xmodal.start.write import Wish, write

    return run(lambda: write(Wish(**vars(args), tool=spoken)) and 0)


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
