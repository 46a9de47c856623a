"""The pages say what is there."""

import re
from pathlib import Path

from tools.methods import TARGET, make_page

ROOT = Path(__file__).parent.parent


def test_methods_page_is_up_to_date():
    assert TARGET.read_text() == make_page(), "run `make methods`"


def test_paths_named_in_the_pages_exist():
    for page in ("README.md", "CONTRIBUTING.md", "docs/methods.md"):
        text = (ROOT / page).read_text()
        named = set(
            re.findall(r"\b(?:tools|configs|xmodal|video|pointcloud|tests|docs)/[\w/.-]+\.(?:py|md|json)\b", text)
        )
        made = {"configs/video/mine.py", "xmodal/adapters/scale_adapter.py"}
        named = {name for name in named if "NAME" not in name}
        missing = [name for name in sorted(named - made) if not (ROOT / name).exists()]
        assert not missing, f"{page} names {missing}"


def test_make_verbs_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for verb in set(re.findall(r"`?make ([a-z0-9-]+)", (ROOT / "README.md").read_text())):
        assert re.search(rf"^{verb}:", makefile, re.M), f"README names `make {verb}`"
