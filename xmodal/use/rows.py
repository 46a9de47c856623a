"""Write the rows of predictions as text, JSON, JSON lines or CSV, one by one as they come."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pointcloud.predict import line_of
from xmodal.data.walk import printable

COLUMNS = ("file", "start", "end", "label", "name", "score", "error", "found")


class Rows:
    """Base of the formats; a writer is a context whose `add` takes one row."""

    def __init__(self, file: TextIO):
        self.file = file

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        """End the file."""

    def add(self, row: dict[str, Any]) -> None:
        """Write a row."""
        raise NotImplementedError


class Text(Rows):
    """A few lines a file."""

    def add(self, row: dict[str, Any]) -> None:
        """Write a row."""
        print(lines_of(row), file=self.file, flush=True)


class JSONLines(Rows):
    """One JSON object a line."""

    def add(self, row: dict[str, Any]) -> None:
        """Write a row."""
        print(json.dumps(row), file=self.file, flush=True)


class JSONList(Rows):
    """One JSON list of all rows."""

    count = 0

    def add(self, row: dict[str, Any]) -> None:
        """Write a row."""
        print(",\n" if self.count else "[\n", json.dumps(row, indent=1), sep="", end="", file=self.file, flush=True)
        self.count += 1

    def __exit__(self, *_: object) -> None:
        """End the list."""
        print("\n]" if self.count else "[]", file=self.file)


class CSV(Rows):
    """A CSV table with a head line; results without a column of their own go into the column `found` as JSON."""

    def __init__(self, file: TextIO):
        super().__init__(file)
        self.table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        self.table.writeheader()

    def add(self, row: dict[str, Any]) -> None:
        """Write a row; of a timeline, one line for each window."""
        for line in [{"file": row["file"], **window} for window in row.get("windows", ())] or [row]:
            known = {key: line[key] for key in COLUMNS if key in line}
            if not {"label", "score", "error"} & line.keys():
                rest = {k: v for k, v in line.items() if k not in (*COLUMNS, "segment", "coordinates", "notes")}
                known["found"] = json.dumps(rest)
            self.table.writerow(known)
        self.file.flush()


ENDINGS = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".txt": "text"}
FORMATS: dict[str, type[Rows]] = {"text": Text, "json": JSONList, "jsonl": JSONLines, "csv": CSV}


@contextmanager
def written(path: str | None, form: str) -> Iterator[Rows]:
    """Open a file, or standard output, for rows.

    Args:
        path: the file, whose ending tells the format (.json, .jsonl, .csv, .txt); None for standard output.
        form: a format by name; of files, only where the ending tells none.
    """
    if path is None:
        with FORMATS[form](sys.stdout) as rows:
            yield rows
        return
    form = ENDINGS.get(Path(path).suffix.lower(), form)
    with open(path, "w", encoding="utf-8", newline="") as file, FORMATS[form](file) as rows:
        yield rows


def lines_of(row: dict[str, Any]) -> str:
    """Return a few lines about a file."""
    name = printable(row["file"])
    if "error" in row:
        return f"{name}\n    cannot be read: {row['error']}"
    if "segments" in row:
        spans = [
            f"    {s['start']:8.2f} to {s['end']:8.2f} s   {s['name']}  {100 * s['score']:.0f} %"
            for s in row["segments"]
        ]
        return "\n".join([name, *spans])
    if "top" in row and "page" not in row:
        return "\n".join([name, *(f"    {100 * entry['score']:6.2f} %  {entry['name']}" for entry in row["top"])])
    if row.keys() == {"file", "score"}:
        return f"{row['score']:8.4f}  {name}"
    return line_of(row)
