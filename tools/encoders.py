"""Compare the towers here with those of the installed timm and open_clip: python tools/encoders.py --write."""

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
    from tools.benches.open_clip_encoders import configs, pair, section
    from tools.benches.stage_encoders import stage_architectures, stage_outcome, stage_section

    def wanted(name: str) -> bool:
        return not args.words or any(word in name for word in args.words)

    outcomes = [outcome(family, name) for family, name in architectures() if wanted(name)]
    stages = [stage_outcome(family, name) for family, name in stage_architectures() if wanted(name)]
    pairs = [pair(name) for name in configs() if wanted(name)]
    for o in (*outcomes, *stages):
        if not o.fits:
            say(f"{o.name}: differs by {o.difference:.1e}")
    for p in pairs:
        if not p.fits:
            say(f"{p.name}: image tower differs by {p.image:.1e}, text tower by {p.text:.1e}")
    taken = [not o.refused for o in (*outcomes, *stages)] + [not p.image_refused for p in pairs]
    say(f"{sum(taken)} taken, {len(taken) - sum(taken)} refused")
    if args.write:
        TARGET.write_text(page(outcomes, [*stage_section(stages), *section(pairs)]))
    return int(not all(o.fits for o in (*outcomes, *stages, *pairs)))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
