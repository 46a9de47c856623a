"""Results on disk, resumed where they are there already, and the tables and plots that are made of them."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from xmodal.atomic import write_text


def plain(value: Any) -> Any:
    """Convert a value to plain JSON: recipes by their fields, types by their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else getattr(value, "__name__", str(value))


def stamp(*parts: Any) -> str:
    """A short hash of a recipe: a changed recipe is run again."""
    return hashlib.sha256(json.dumps(plain(parts), sort_keys=True).encode()).hexdigest()[:12]


def read_result(path: Path, **wanted: Any) -> dict[str, Any] | None:
    """A result that is there and of the same recipe: the fields in `wanted` agree."""
    result = json.loads(path.read_text()) if path.exists() else None
    return result if result is not None and all(result.get(k) == v for k, v in wanted.items()) else None


def write_result(path: Path, result: Any, indent: int | None = 1) -> None:
    """Write a result in one go, so that a file that is there is whole."""
    write_text(path, json.dumps(result, indent=indent) + "\n")


def once(path: Path, make: Callable[[], Mapping[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Return the result at a path where it is of the same recipe (`wanted`); else make it, with these fields, there."""
    if (there := read_result(path, **wanted)) is None:
        write_result(path, {**make(), **wanted})
        there = read_result(path) or {}
    return there


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, the sample standard deviation."""
    return f"{mean(values):.2f}" if len(values) < 2 else f"{mean(values):.2f} +- {stdev(values):.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


@contextlib.contextmanager
def plot(path: str | Path, panels: int = 1, size: tuple[float, float] = (5.2, 4), rows: int = 1) -> Iterator[Any]:
    """Give the axes of a figure with some panels in each row, and write it as a picture afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, panels, figsize=(size[0] * panels, size[1] * rows), squeeze=False)
    yield axes.flat
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
