"""Rows of numbers as text: `.xyz`, `.txt`, `.pts`, `.csv` and their kin, with or without a header."""

import contextlib
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.base import CloudError
from pointcloud.formats.columns import HELP, XYZ, from_table
from pointcloud.formats.scan import KNOWN, Columns, Scan, canonical, from_fields, reader
from xmodal.data.lists import open_text

COMMENT = ("#", "//", "%")
HEAD = 200  # lines that may come before the first row
PTS = {4: ("intensity",), 6: ("red", "green", "blue"), 7: ("intensity", "red", "green", "blue")}
DECIMAL_COMMA = re.compile(r"^([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)$")
UNIT = re.compile(r"[(\[][^)\]]*[)\]]")
REMARK = re.compile(r"\s(?:#|//|%).*")  # behind the numbers of a row
MISSING = ("", "na", "n/a", "null", "none", "-")  # cells without a number, in lower case


def number(word: str) -> float:
    """Return the number in a cell: NaN if it is empty, a decimal comma and Fortran's D allowed.

    Raises:
        ValueError: it is a word.
    """
    plain = word.strip().strip('"')
    if plain.lower() in MISSING:
        return math.nan
    return float(re.sub("[dD]", "e", DECIMAL_COMMA.sub(r"\1.\2", plain)))


@dataclass
class TextLayout:
    """Layout of a text file, read from its first lines.

    Args:
        skip: lines before the first row.
        names: of the columns, or None.
        delimiter: None for spaces.
        decimal_comma: numbers are written as 1,5.
        count: rows that a leading line promises, or None.
        width: columns, where a delimiter behind the last one would make one more.
        notes: of lines that were left out.
    """

    skip: int
    names: list[str] | None
    delimiter: str | None
    decimal_comma: bool
    count: int | None
    width: int | None
    notes: list[str]


def is_number(word: str) -> bool:
    """Return whether a word is a number, infinite and missing ones included; a decimal comma is no part of one."""
    try:
        number(word.replace(",", "?"))
    except ValueError:
        return False
    return True


def is_row(words: list[str], names: list[str] | None) -> bool:
    """Return whether the words are numbers; below a header only the columns that are known must be."""
    numbers = words
    if names is not None:
        known = {*KNOWN.values()} - {"classification"}
        numbers = [w for w, name in zip(words, names, strict=False) if name in known]
    return all(is_number(w) for w in numbers) and any(w.lower() not in MISSING for w in numbers)


def split(line: str, delimiter: str | None) -> list[str]:
    """Return the words of a line, without quotes and without the empty one behind a last delimiter."""
    words = [w.strip().strip('"') for w in line.strip().split(delimiter)]
    return words[:-1] if delimiter and words and not words[-1] else words


def row_of(text: str, names: list[str] | None) -> tuple[str | None, bool, list[str]] | None:
    """Return how a line separates its numbers, whether they have decimal commas, and its words; None for no row."""
    for delimiter in (";", "\t", ",", None):
        if delimiter is not None and delimiter not in text:
            continue
        words = split(text, delimiter)
        if is_row(words, names):
            return delimiter, False, words
        if delimiter != "," and is_row([DECIMAL_COMMA.sub(r"\1.\2", w) for w in words], names):
            return delimiter, True, words
    return None


def header_of(text: str) -> list[str]:
    """Return the column names of a line, without units in brackets."""
    delimiter = next((d for d in (";", "\t", ",") if d in text), None)
    return [canonical(w) for w in split(UNIT.sub("", text), delimiter)]


def read_head(lines: list[str], columns: Columns = None) -> TextLayout:
    """Read what comes before the rows: comments, a header, a count.

    Args:
        lines: the first of a file.
        columns: given by the user; then a header needs no names that are known.

    Raises:
        CloudError: no row of numbers among the first lines.
    """
    names, count = None if columns is None else [canonical(c) for c in columns], None
    notes: list[str] = []
    for at, raw in enumerate(lines):
        line = raw.strip()
        comment = line.startswith(COMMENT)
        text = line.lstrip("/#%").strip() if comment else line
        if not text:
            continue
        text = REMARK.sub("", text)
        row = None if comment else row_of(text, names)
        if row is not None:
            delimiter, comma, words = row
            if len(words) == 1 and words[0].isdigit() and count is None:
                count = int(words[0])
                continue
            width = len(words) if text.endswith(delimiter or "\n") else None
            return TextLayout(at, names, delimiter, comma, count, width, notes)
        found = header_of(text)
        if columns is None and set(XYZ) <= set(found):
            names = found
        elif not comment and columns is None:
            if set(found) & set(KNOWN.values()) or names is not None or at > 3:
                raise CloudError(
                    f"line {at + 1}, {line[:60]!r}, is neither numbers nor a header with x, y and z: {HELP}"
                )
            notes.append(f"line {at + 1}, {line[:60]!r}, is no row of numbers: left out")
    raise CloudError("no rows of numbers")


def rows_of(path: Path, head: TextLayout, use: list[int] | None) -> np.ndarray:
    """Return the rows as a table, NaN in cells without a number.

    Raises:
        ValueError: rows of different lengths, or words where numbers belong.
    """

    def load(**options: Any) -> np.ndarray:
        with open_text(path, errors="replace") as file:
            rows: Iterable[str] = itertools.islice(file, head.skip, None)
            if head.decimal_comma:
                rows = (line.replace(",", ".") for line in rows)
            return np.loadtxt(rows, delimiter=head.delimiter, ndmin=2, usecols=use, encoding=None, **options)

    for fast in ({"comments": "#", "quotechar": '"'}, {"comments": COMMENT}):
        with contextlib.suppress(ValueError):
            return load(**fast)
    return load(comments=COMMENT, converters=number)  # a call a cell


def table_of(path: Path, head: TextLayout, columns: Columns) -> tuple[np.ndarray, Columns]:
    """Return the rows and the names of their columns; columns left out with `-` may hold words."""
    try:
        return rows_of(path, head, None if head.width is None else list(range(head.width))), columns
    except ValueError:
        use = [i for i, name in enumerate(columns or ()) if canonical(name) in KNOWN.values()]
        if not columns or len(use) == len(columns):
            raise
        return rows_of(path, head, use), [columns[i] for i in use]


@reader(".xyz", ".txt", ".pts", ".csv", ".asc", ".xyzrgb", ".xyzn")
def read_text(path: Path, columns: Columns = None) -> Scan:
    """Read rows of numbers: columns by `columns`, by a header, or as far as their values tell."""
    with open_text(path, errors="replace") as file:
        head = read_head(list(itertools.islice(file, HEAD)), columns)
    if columns is None and head.names is not None:
        use = [i for i, name in enumerate(head.names) if name in KNOWN and head.names.index(name) == i]
        try:
            table = rows_of(path, head, use)
        except ValueError:  # classes may be words
            use = [i for i in use if head.names[i] != "classification"]
            table = rows_of(path, head, use)
        fields = {head.names[i]: table[:, n] for n, i in enumerate(use)}
        scan = from_fields(fields, typed=False, notes=head.notes)
    else:
        table, columns = table_of(path, head, columns)
        scan = from_table(table, columns, PTS.get(table.shape[1]) if path.suffix.lower() == ".pts" else None)
        scan.notes = head.notes + scan.notes
    if head.count is not None and head.count != len(table):
        raise CloudError(f"the first line promises {head.count} points, {len(table)} are there")
    return scan
