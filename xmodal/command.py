"""The `xmodal` command: the tools by name, and the shipped configs by name."""

import ast
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMANDS = {  # what a tool does; those whose file is there are offered
    "new": "write a config for your own files",
    "train": "train a config",
    "test": "test a checkpoint",
    "predict": "classify, label or search files",
    "report": "look at a run, or compare several",
    "search": "find your own pictures and videos by text or example",
    "serve": "answer over HTTP for many tasks on one encoder",
    "export": "write a model for other runtimes",
    "convert": "official checkpoints in, and back out",
    "extract": "fill the cache of the frozen part ahead of training",
    "merge": "fold adapters into the encoder's weights",
    "check-videos": "scan videos: what can be read, and why not",
    "pack": "put files into tars that are read at random, also from a store",
    "reencode-videos": "make smaller copies of videos that are read fast",
    "configs": "list the configs that come along",
}
USAGE = """usage: xmodal COMMAND ...

{commands}

xmodal COMMAND --help says more. CONFIG is a file, or the name of a config that comes along (xmodal configs).
"""


def folder(name: str) -> Path:
    """Return the folder `tools` or `configs`: in the installed package, or of the checkout."""
    inside = HERE / name
    return inside if inside.is_dir() else HERE.parent / name


def tool_file(command: str) -> Path:
    """Return the file of a command's tool."""
    return folder("tools") / f"{command.replace('-', '_')}.py"


def spoken(tool: str) -> str:
    """Return the command of a tool as this program was called: `xmodal test`, or `python tools/test.py`."""
    called = Path(sys.argv[0])
    if called.suffix == ".py" and (called.parent / f"{tool}.py").is_file() and called.parent.name == "tools":
        return f"python {called.parent / tool}.py"
    return f"xmodal {tool}"


def offered() -> dict[str, str]:
    """Return the commands that are there, with what they do."""
    return {name: what for name, what in COMMANDS.items() if name == "configs" or tool_file(name).is_file()}


def config_files() -> Iterator[tuple[str, Path]]:
    """Yield the names and files of the configs that come along: `video/evl_vit-b16-clip_8x16_k400`."""
    root = folder("configs")
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root)
        if "_base_" not in inner.parts and len(inner.parts) > 1:
            yield inner.with_suffix("").as_posix(), path


def config_file(name: str) -> Path | None:
    """Return the file of a config that comes along, by its name with or without its folder and `.py`; None if none."""
    wanted = name.removesuffix(".py").removeprefix("configs/")
    found = [path for known, path in config_files() if wanted in (known, known.partition("/")[2])]
    return found[0] if len(found) == 1 else None


def title_of(path: Path) -> str:
    """Return the first line of a config's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.splitlines()[0] if text else ""


def list_configs(words: Sequence[str]) -> int:
    """Print the configs whose name or title holds every word; returns the exit status."""
    if any(word in ("-h", "--help") for word in words):
        print("usage: xmodal configs [WORD ...]\n\nList the configs whose names or first lines hold all words.")
        return 0
    found = [(name, title_of(path)) for name, path in config_files()]
    shown = [(n, t) for n, t in found if all(word.lower() in f"{n} {t}".lower() for word in words)]
    for name, title in shown:
        print(f"{name}\n    {title}")
    if not shown:
        print(f"error: none of {len(found)} configs is about {' '.join(words)}", file=sys.stderr)
    return 0 if shown else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    commands = offered()
    if not words or words[0] in ("-h", "--help"):
        wide = max(map(len, commands))
        print(USAGE.format(commands="\n".join(f"  {name:{wide}}  {what}" for name, what in commands.items())), end="")
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        from xmodal import __version__

        print(__version__)
        return 0
    if name not in commands:
        from xmodal.registry import did_you_mean

        print(f"error: no command is called {name!r}; {did_you_mean(name, commands)}", file=sys.stderr)
        return 2
    if name == "configs":
        return list_configs(rest)
    sys.argv = [f"xmodal {name}", *rest]  # what `--help` and reports call the program
    spec = importlib.util.spec_from_file_location(f"xmodal_tool_{name.replace('-', '_')}", tool_file(name))
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.main(rest)


def run() -> None:
    """Run the command line and exit."""
    sys.exit(main())
