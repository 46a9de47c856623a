"""Write docs/methods.md from the registry: method, paper, slot, config, parity case, trained parameters, measured."""

import argparse
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "methods.md"
HEAD = """# Methods

Made by `make methods` from the registry; a test fails when it is out of date. `D` is the width of the encoder. The
configs of each method, and what was measured here, stand below the table. Where nothing was measured, neither the data
set nor the pretrained weights were available.

| method | slot | paper | trained weights | encoders | parity cases |
|---|---|---|---|---|---|
"""


@cache
def source(path: Path) -> str:
    """A config's text together with that of the `_base_` files it reads."""
    text = path.read_text()
    bases = re.findall(r"^\s+from (?:\.\._base_|\.)\.?(\w+) import \*", text, re.M)
    return text + "".join(source(ROOT / "configs" / "_base_" / f"{base}.py") for base in bases)


def configs_of(about) -> list[Path]:
    """Configs that use a method: they, or a base of theirs, import its object."""
    where = rf"^from {re.escape(about.obj.__module__)} import [^\n]*\b{about.obj.__name__}\b"
    configs = (p for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts)
    return sorted(p for p in configs if re.search(where, source(p), re.M))


def measured(path: Path) -> str:
    """Return what a config's header says was measured; empty where nothing was."""
    found = re.search(r"^Measured here: *(.+?)(?:\n\n|\"\"\")", path.read_text(), re.M | re.S)
    text = " ".join(found.group(1).split()) if found else ""
    return "" if text.lower().startswith("nothing") else text


def row(about) -> str:
    """One line of the table."""
    name = f"[`{about.name}`](#{about.name})" if configs_of(about) else f"`{about.name}`"
    cells = [name, about.slot, about.paper, f"`{about.params}`" if about.params else "-"]
    cells += [", ".join(about.families), ", ".join(about.parity) or "-"]
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def section(about) -> str:
    """A method's configs, those with a measurement first and with it."""
    configs = configs_of(about)
    if not configs:
        return ""
    lines = [f"- [{p.stem}](../{p.relative_to(ROOT)}): {measured(p)}" for p in configs if measured(p)]
    others = [f"[{p.stem}](../{p.relative_to(ROOT)})" for p in configs if not measured(p)]
    if others:
        lines.append(f"- not measured here: {', '.join(others)}")
    return f"\n## {about.name}\n\n" + "\n".join(lines) + "\n"


def make_page() -> str:
    """The whole page."""
    from xmodal.registry import METHODS, load_catalog

    load_catalog()
    methods = [METHODS[name] for name in sorted(METHODS)]
    return HEAD + "\n".join(row(m) for m in methods) + "\n" + "".join(section(m) for m in methods)


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
