"""Who may import whom, read from the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for top in ("xmodal", "video", "pointcloud") for p in (ROOT / top).rglob("*.py"))

# Package prefix -> what it must never import. The longest matching prefix decides.
CEILINGS = {
    "xmodal.official": ("xmodal.adapters", "xmodal.heads", "xmodal.model", "xmodal.engine", "video", "pointcloud"),
    "xmodal.structures": ("xmodal", "video", "pointcloud", "timm", "open_clip"),
    "xmodal.registry": ("xmodal", "video", "pointcloud", "timm", "open_clip"),
    "xmodal.encoders": (
        "xmodal.adapters", "xmodal.heads", "xmodal.readers", "xmodal.model", "xmodal.engine", "xmodal.evaluation",
        "video", "pointcloud",
    ),
    "xmodal.adapters": ("xmodal.heads", "xmodal.model", "xmodal.engine", "xmodal.evaluation", "video", "pointcloud"),
    "xmodal.heads": ("xmodal.adapters", "xmodal.model", "xmodal.engine", "xmodal.evaluation", "video", "pointcloud"),
    "xmodal.data": ("xmodal.heads", "xmodal.model", "xmodal.engine", "xmodal.evaluation", "video", "pointcloud"),
    "xmodal.engine": ("xmodal.evaluation", "video", "pointcloud"),
    "xmodal.command": ("xmodal.engine", "video", "pointcloud"),
    "xmodal.start": (),  # writes configs of all kinds
    "xmodal.use": (),  # loads models of all kinds
    "xmodal": ("video", "pointcloud"),
    "video": ("pointcloud",),
    "pointcloud": ("video",),
}  # fmt: skip
# Heavy dependency -> the only files that may import it.
DOORS = {
    "timm": ("xmodal/encoders/", "xmodal/preprocessor.py", "video/transforms.py", "video/augment.py"),
    "open_clip": ("xmodal/encoders/",),
    "av": ("video/sequential.py", "video/upright.py", "video/reencode.py", "video/toys/actions.py"),
    "pytorch3d": ("pointcloud/ops.py",),
    "numba": ("pointcloud/farthest.py",),
    "triton": ("pointcloud/kernels.py",),
}
CATALOG = {"xmodal.registry"}  # imports every module by name to fill itself


def imports_of(path):
    """Every module name that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(name, package):
    return name == package or name.startswith(package + ".")


def forbidden(name):
    rules = [p for p in CEILINGS if inside(name, p)]
    return CEILINGS[max(rules, key=len)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stay_on_their_floor(path):
    name = module_name(path)
    for imported in imports_of(path):
        for package in (*forbidden(name), "tools", "tests", "configs"):
            assert not inside(imported, package) or imported == name, f"{name} imports {imported}"
        top, where = imported.split(".")[0], str(path.relative_to(ROOT))
        if top in DOORS:
            assert where.startswith(DOORS[top]), f"{where} imports {top}, whose door is {DOORS[top]}"


@pytest.mark.parametrize("path", sorted((ROOT / "xmodal" / "adapters").glob("*.py")), ids=lambda p: p.stem)
def test_a_method_imports_no_other_method(path):
    others = {f"xmodal.adapters.{p.stem}" for p in path.parent.glob("*.py")} - {f"xmodal.adapters.{path.stem}"}
    if path.stem != "noah":  # built of three
        assert not others & set(imports_of(path))


def test_there_is_no_utils_and_no_second_vision_transformer():
    assert not [p for p in SOURCES if p.stem in ("utils", "helpers", "misc", "common")]
    towers = [
        (p.name, node.name)
        for p in SOURCES
        for node in ast.walk(ast.parse(p.read_text()))
        if isinstance(node, ast.ClassDef) and "VisionTransformer" in node.name
    ]
    assert towers == [("vit.py", "VisionTransformer")]


def test_every_tests_folder_is_a_package():
    folders = {p.parent for p in (ROOT / "tests").rglob("*.py")}
    assert not [d for d in folders if not (d / "__init__.py").exists()]


def test_nothing_in_the_library_imports_a_toy():
    for path in SOURCES:
        if "toys" not in path.parts:
            assert not [i for i in imports_of(path) if "toys" in i.split(".")], path


def graph():
    """Module -> the modules of the three packages that it imports, inside functions too."""
    names = {module_name(p): p for p in SOURCES}
    edges = {}
    for name, path in names.items():
        found = {i for i in imports_of(path) if i in names and i != name}
        found -= {"xmodal"}  # `from xmodal import adapters`: the package itself holds `adapt` alone
        edges[name] = set() if name in CATALOG else found
    return edges


def circles(edges):
    """Every circle that a walk in depth meets, as a path that returns to its start."""
    found, done = [], set()

    def walk(name, path):
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(edges[name]):
                walk(other, [*path, name])
            done.add(name)

    for name in sorted(edges):
        walk(name, [])
    return found


def test_imports_have_no_circle():
    assert circles(graph()) == []


def test_a_circle_would_be_noticed():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]


def test_files_and_functions_can_be_seen_whole():
    """No file of the library has more than 400 lines, no function more than 60."""
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 60, f"{path}: {node.name}"
