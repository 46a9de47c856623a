"""Write docs/methods.md from the registry: method, paper, slot, config, parity case, trained parameters, measured."""

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "methods.md"
HEAD = """# Methods

Made by `make methods` from the registry; a test fails when it is out of date. `D` is the width of the encoder; figures
marked *here* were measured on data that ships with the project, with the command that stands in the config.

| method | slot | paper | trained weights | encoders | configs | parity | measured here |
|---|---|---|---|---|---|---|---|
"""


def configs_of(name: str) -> list[Path]:
    """Configs whose file name begins with the method's name."""
    stem = name.replace("_", "-")
    return sorted(p for p in (ROOT / "configs").rglob(f"{stem}_*.py") if "_base_" not in p.parts)


def measured_in(configs: list[Path]) -> str:
    """What the configs' headers say was measured here."""
    found = [re.search(r"^Measured here: *(.+?)(?:\n\n|\"\"\")", p.read_text(), re.M | re.S) for p in configs]
    texts = [" ".join(m.group(1).split()) for m in found if m]
    return "; ".join(t for t in texts if not t.lower().startswith("nothing")) or "-"


def row(about) -> str:
    """One line of the table."""
    configs = configs_of(about.name)
    links = ", ".join(f"[{p.stem.partition('_')[2]}](../{p.relative_to(ROOT)})" for p in configs) or "-"
    cells = [
        f"`{about.name}`", about.slot, about.paper, f"`{about.params}`" if about.params else "-",
        ", ".join(about.families), links, ", ".join(about.parity) or "-", measured_in(configs),
    ]  # fmt: skip
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def make_page() -> str:
    """The whole page."""
    from xmodal.registry import METHODS, load_catalogue

    load_catalogue()
    return HEAD + "\n".join(row(METHODS[name]) for name in sorted(METHODS)) + "\n"


def main() -> None:
    """Write the page, or with --check say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when docs/methods.md is out of date")
    if parser.parse_args().check:
        raise SystemExit(
            0 if TARGET.exists() and TARGET.read_text() == make_page() else "docs/methods.md: run `make methods`"
        )
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(make_page())
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
