"""Class names, sentence templates and knowledge of the data sets, read from the files the toolkit publishes.

Papers: ELEVATER (arXiv 2204.08790), K-LITE (2204.09222) for the knowledge.
"""

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmodal.data.lists import load_json
from xmodal.encoders.clip import fill
from xmodal.evaluation.bench import TEMPLATES
from xmodal.evaluation.elevater_catalog import plain
from xmodal.evaluation.elevater_data import DataSet


def read_prompts(path: str | Path) -> dict[str, dict[str, list[str]]]:
    """The maps of a copy of the toolkit's `prompts.py`, or of a JSON file of the same form, without running anything.

    Returns:
        `class_map` and `template_map`, each from a data set's name to a list.

    Raises:
        ValueError: neither map is in the file.
    """
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix == ".json":
        found = json.loads(text)
    else:
        found = {name: value for name, value in literals(ast.parse(text)).items() if name.endswith("_map")}
    maps = {name: found.get(name, {}) for name in ("class_map", "template_map")}
    if not any(maps.values()):
        raise ValueError(f"{path} holds no class_map and no template_map")
    return maps


def literals(tree: ast.Module) -> dict[str, Any]:
    """Names at the top of a module whose values are literals, dictionaries of earlier names included."""
    known: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            try:
                value = literal_value(node.value, known)
            except ValueError:
                continue
            if isinstance(target, ast.Name):
                known[target.id] = value
            elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                known.setdefault(target.value.id, {})[literal_value(target.slice, known)] = value
    return known


def literal_value(node: ast.expr, known: dict[str, Any]) -> Any:
    """The value of a literal in which earlier names may stand.

    Raises:
        ValueError: anything else.
    """
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.Dict) and all(k is not None for k in node.keys):
        pairs = zip(node.keys, node.values, strict=True)
        return {literal_value(k, known): literal_value(v, known) for k, v in pairs if k is not None}
    return ast.literal_eval(node)


def of_dataset(maps: dict[str, dict[str, list[str]]] | None, data: DataSet) -> tuple[list[str], list[str]]:
    """Class names and templates of a data set: of the prompts file, else its own, else one plain template.

    Raises:
        ValueError: the file names another number of classes than the data set has.
    """
    names, templates = data.class_names, data.templates or list(TEMPLATES)
    for kind, values in (maps or {}).items():
        own = next((v for k, v in values.items() if plain(k) == plain(data.card.name)), None)
        if own is None:
            continue
        if kind == "class_map":
            names = [n[0] if isinstance(n, list | tuple) else n for n in own]
        else:
            templates = list(own)
    if len(names) != data.num_classes:
        raise ValueError(
            f"{data.card.name}: {len(names)} class names in the prompts file, {data.num_classes} in labels.txt"
        )
    return names, templates


def read_knowledge(folder: str | Path, dataset: str, source: str) -> dict[str, str]:
    """Sentences about classes, from the toolkit's knowledge files.

    Args:
        folder: holds files with the data set in their name, each a JSON list of entries with `classname` and texts.
        dataset: the data set's name.
        source: which text of an entry, such as `wiki`, `def_wn` or `gpt3`; of a list of texts the first.

    Raises:
        FileNotFoundError: no file about the data set gives this source.
    """
    known: dict[str, str] = {}
    for path in sorted(Path(folder).glob("*.[jt]s*")):
        if plain(dataset) not in plain(path.stem):
            continue
        for entry in load_json(path, list, "a list of entries"):
            text = entry.get(source)
            text = text[0] if isinstance(text, list) and text else text
            if isinstance(text, str) and text.strip():
                known[entry["classname"]] = text.strip()
    if not known:
        raise FileNotFoundError(f"no file in {folder} gives {source!r} for {dataset}: expected a JSON list of entries")
    return known


def sentences(
    names: Sequence[str], templates: Sequence[str], knowledge: dict[str, str] | None = None
) -> list[list[str]]:
    """Finished sentences, one list a class; knowledge about a class follows its name, as in K-LITE."""
    about = knowledge or {}
    tails = [f" ; {name} , {about[name]}" if name in about else "" for name in names]
    return [[fill(t, name) + tail for t in templates] for name, tail in zip(names, tails, strict=True)]
