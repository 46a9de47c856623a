"""The pages say what is there."""

import re
from pathlib import Path

from tools.methods import TARGET, make_page
from xmodal.command import offered, tool_file

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))))
PLACES = r"\b(?:tools|configs|xmodal|video|pointcloud|tests|docs)/[\w/.-]+\.(?:py|md|json|toml|safetensors)\b"
CALLED = ("fewshot", "elevater", "vtab", "fewshot_clouds")  # by tools/evaluate.py


def test_methods_page_is_up_to_date():
    assert TARGET.read_text() == make_page(), "run `make methods`"


def test_paths_named_in_the_pages_exist():
    for page in PAGES:
        named = set(re.findall(PLACES, (ROOT / page).read_text()))
        made = {"configs/video/mine.py", "xmodal/adapters/scale_adapter.py"}
        named = {name for name in named if "NAME" not in name}
        missing = [name for name in sorted(named - made) if not (ROOT / name).exists()]
        assert not missing, f"{page} names {missing}"


def test_links_of_the_pages_lead_to_files():
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
        missing = [link for link in sorted(set(links)) if not (ROOT / page).parent.joinpath(link).exists()]
        assert not missing, f"{page} links to {missing}"


def test_commands_of_the_pages_have_their_options():
    seen = 0
    for page in PAGES:
        text = (ROOT / page).read_text().replace("\\\n", " ")
        for tool, rest in re.findall(r"(?<![\w/])(tools/[\w/]+\.py)([^\n`|#;]*)", text):
            files = [f"tools/{name}.py" for name in CALLED] if tool == "tools/evaluate.py" else [tool]
            source = "".join((ROOT / file).read_text() for file in files)
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
                assert f'"{option}"' in source, f"{page}: {tool} has no {option}"
                seen += 1
        for tool, rest in re.findall(r"(?<![\w/.-])xmodal ([a-z][a-z-]+)([^\n`|#;]*)", text):
            if tool not in offered():
                continue
            source = tool_file(tool).read_text() if tool != "configs" else ""
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
                assert f'"{option}"' in source, f"{page}: xmodal {tool} has no {option}"
                seen += 1
    assert seen > 50


def test_make_verbs_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for verb in set(re.findall(r"`?make ([a-z0-9-]+)", (ROOT / "README.md").read_text())):
        assert re.search(rf"^{verb}:", makefile, re.M), f"README names `make {verb}`"
