"""Read and write text files of paths and labels: lines, tables and JSON, with names of any bytes."""

import codecs
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from xmodal.data.tables import delimiter_of
from xmodal.data.trouble import NotAFileError, regular_file

JSON = (".json", ".jsonl")
_UNSAFE = re.compile(r"[\n\r\t\"]|^\s|\s$")  # in a path: would end its line or its column, or be stripped


def open_text(path: str | os.PathLike, newline: str | None = None, errors: str = "surrogateescape") -> TextIO:
    """Open a text file so that names of any bytes come through: UTF-8, or UTF-16 as Windows writes it.

    Args:
        path: of the file.
        newline: see `open`.
        errors: see `open`; of UTF-8.

    Raises:
        ValueError: a FIFO, a device or a folder.
    """
    try:
        regular_file(path)
    except NotAFileError as error:
        raise ValueError(f"{path} {error}") from None
    with open(path, "rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if wide:
        return open(path, encoding="utf-16", errors="replace", newline=newline)
    return open(path, encoding="utf-8-sig", errors=errors, newline=newline)


def lines_of(path: str | os.PathLike) -> list[str]:
    """Read the lines of a text file; only line feeds and carriage returns end one (names may hold other separators)."""
    return list(each_line(path))


def each_line(path: str | os.PathLike) -> Iterator[str]:
    """Yield the lines of a text file, see `lines_of`."""
    with open_text(path) as lines:
        for line in lines:
            yield line.rstrip("\n")


def entries_of(path: str | os.PathLike, hint: str = "is the root of the data set right?") -> list[str]:
    """Read the lines of a text file that are not empty, without the spaces around them.

    Raises:
        ValueError: no such file; `hint` ends the message.
    """
    if not Path(path).is_file():
        raise ValueError(f"no file at {path}: {hint}")
    return [line.strip() for line in each_line(path) if line.strip()]


def read_csv(path: str | os.PathLike, delimiter: str = ",") -> list[dict[str, str]]:
    """Read the rows of a table with a head line; rows without any value are left out.

    Raises:
        ValueError: not such a table, naming the file and line.
    """
    with open_text(path, newline="") as lines:
        rows = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            return [row for row in rows if any(isinstance(v, str) and v.strip() for v in row.values())]
        except csv.Error as error:
            raise ValueError(f"{path}:{rows.line_num}: not a table of values: {error}") from None


def rows_of(path: str | os.PathLike) -> list[dict[str, str]]:
    """Read the rows of a table whose columns are separated by tabs, semicolons or commas, or of JSON, see `json_rows`.

    Raises:
        ValueError: not such a table.
    """
    if Path(path).suffix.lower() in JSON:
        found = json_rows(Path(path))
        if not found:
            raise ValueError(f"{path}: expected a list of objects, or {{split: [[path, label, class], ...]}}")
        return found
    with open_text(path) as lines:
        header = next(lines, "")
    return read_csv(path, delimiter_of(header))


def json_rows(path: Path) -> list[dict[str, str]] | None:
    """Return what a JSON file holds as a table of text, see `json_objects`; lists are joined by semicolons."""
    rows = json_objects(path)
    return None if rows is None else [{str(k): _cell(v) for k, v in row.items()} for row in rows]


def json_objects(path: Path) -> list[dict[str, Any]] | None:
    """Return the rows that a JSON file holds, None where it is no table.

    Tables are a list of objects, lines of one object each, CoOp's `{split: [[path, label, class], ...]}`, and Kinetics'
    `{youtube_id: {annotations: {label, segment}, subset}}`.
    """
    content = load_json_lines(path) if path.suffix.lower() == ".jsonl" or _one_a_line(path) else load_json(path)
    parts = content if isinstance(content, dict) else {None: content}
    rows: list[dict[str, Any]] = []
    for key, part in parts.items():
        split = {} if key is None else {"split": key}
        if isinstance(part, dict) and isinstance(part.get("annotations"), dict) and "segment" in part["annotations"]:
            start, end = part["annotations"]["segment"]
            times = {"youtube_id": key, "time_start": start, "time_end": end}
            rows.append({"label": part["annotations"].get("label"), "split": part.get("subset"), **times})
        elif isinstance(part, list) and all(isinstance(row, dict) for row in part):
            rows += [{**row, **split} for row in part]
        elif isinstance(part, list) and split and all(isinstance(row, list) and len(row) == 3 for row in part):
            rows += [{"path": row[0], "label": row[2], **split} for row in part]
        else:
            return None
    several = {"images", "annotations"} <= parts.keys()  # COCO's tables
    return None if several else rows


def _one_a_line(path: Path) -> bool:
    """Return whether the first of several lines is a whole JSON object."""
    lines = (line for line in each_line(path) if line.strip())
    first, second = next(lines, ""), next(lines, "")
    try:
        return bool(second) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def load_json_lines(path: Path) -> list[Any]:
    """Read a file of one JSON value a line; errors name the line."""
    return [_json_line(line, f"{path}:{n}") for n, line in enumerate(each_line(path), 1) if line.strip()]


def _json_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON: {error}") from None


def _cell(value: Any) -> str:
    return ";".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def unquoted(name: str) -> str:
    """Return a path of a list without the quotes around it; in quotes, `write_list` escapes what would end a line."""
    if len(name) > 1 and name[0] == name[-1] == '"':
        try:
            escaped = str(json.loads(name))
        except ValueError:
            escaped = ""
        if _UNSAFE.search(escaped):
            return escaped
    return name.strip('"')


def load_json(path: Path, kind: type = object, form: str = "") -> Any:
    """Read a JSON file; errors name the line, or the form that is expected of a `kind`."""
    try:
        with open_text(path) as file:
            found = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: JSON nested too deeply") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path}: expected {form}, found a {type(found).__name__}")
    return found


def write_lines(path: str | os.PathLike, labeled: Iterable[tuple[str, int | tuple[int, ...]]]) -> None:
    """Write a list file of paths and labels, a tab between, paths that would not survive in quotes as JSON."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        for name, label in labeled:
            words = label if isinstance(label, int) else ";".join(map(str, label)) + ";"
            file.write(f"{json.dumps(name) if _UNSAFE.search(name) else name}\t{words}\n")
