"""Read what is published about the benchmarks' data sets: `benchmarks.json` in `xmodal/assets`."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

Kind = TypeVar("Kind")


@cache
def published() -> dict[str, list]:
    """Return all tables by name."""
    return json.loads(files("xmodal.assets").joinpath("benchmarks.json").read_text(encoding="utf-8"))


def read_facts(name: str, kind: type[Kind]) -> dict[str, Kind]:
    """Return the rows of a table as dataclasses by name; lists become tuples."""
    fixed = lambda value: tuple(value) if isinstance(value, list) else value  # noqa: E731
    rows: list[dict[str, Any]] = published()[name]
    return {row["name"]: kind(**{key: fixed(value) for key, value in row.items()}) for row in rows}
