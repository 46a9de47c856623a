"""Compare the towers here with the vision transformers of the installed timm: python tools/encoders.py --write."""

import argparse
import sys
from collections.abc import Callable


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("words", nargs="*", help="only architectures whose names contain one of these")
    p.add_argument("--write", action="store_true", help="write docs/encoders.md")
    return p


def main(argv: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Compare; exit with 1 where one differs."""
    args = parser().parse_args(argv)
    from tools.benches.encoders import TARGET, architectures, outcome, page

    chosen = [(f, n) for f, n in architectures() if not args.words or any(word in n for word in args.words)]
    outcomes = [outcome(family, name) for family, name in chosen]
    for o in outcomes:
        if not o.fits:
            say(f"{o.name}: differs by {o.difference:.1e}")
    say(f"{sum(not o.refused for o in outcomes)} rebuilt, {sum(bool(o.refused) for o in outcomes)} refused")
    if args.write:
        TARGET.write_text(page(outcomes))
    return int(not all(o.fits for o in outcomes))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
