"""Read files of image captions: tables with a column of paths and one of captions, and COCO's."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodal.data.lists import JSON, json_objects, load_json, rows_of
from xmodal.data.tables import CAPTIONS, PATHS, find

log = logging.getLogger("xmodal.data")
ENDINGS = (".csv", ".tsv", ".txt", *JSON)


def read_captions(
    path: str | os.PathLike, image_key: str | None = None, caption_key: str | None = None
) -> list[tuple[str, str]]:
    """Read pairs of an image's path and a caption; an image with several captions makes several pairs.

    Args:
        path: a table with a head line (`.csv`, `.tsv` or `.txt`; tabs, semicolons, commas or bars between), JSON (a
            list of objects, or an object a line), or COCO's `captions_*.json`.
        image_key: column of the path; default: found by its name.
        caption_key: column of the caption, which may hold a list; default: found by its name.

    Raises:
        ValueError: a file of another kind, or without the columns.
    """
    if Path(path).suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: lists of captions are {', '.join(ENDINGS)}")
    rows = caption_rows(Path(path))
    names = [str(name) for name in rows[0] if name is not None] if rows else []
    image, caption = image_key or find(names, PATHS), caption_key or find(names, CAPTIONS)
    if image is None or caption is None:
        key = "image_key" if image is None else "caption_key"
        raise ValueError(f"{path}: no column of {key.partition('_')[0]}s among {names}; name it as `{key}`")
    pairs = []
    for number, row in enumerate(rows, 1):
        if image not in row or caption not in row:
            raise ValueError(f"{path}, sample {number}: no {image!r} or {caption!r} in {sorted(map(str, row))}")
        found = row[caption] if isinstance(row[caption], list) else [row[caption]]
        pairs += [(str(row[image]).strip(), str(text).strip()) for text in found if text and row[image]]
    if empty := sum(not (row[caption] and row[image]) for row in rows):
        log.warning("%s: %d of %d rows have no caption or no image and are left out", path, empty, len(rows))
    return pairs


def caption_rows(path: Path) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a table of captions; of COCO's, an image's file name and a caption each."""
    if path.suffix.lower() not in JSON:
        return rows_of(path)
    rows = json_objects(path)
    if rows is not None:
        return rows
    form = "a list of objects, an object a line, or COCO's {images, annotations}"
    content = load_json(path, dict, form)
    if not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{path}: expected {form}, found keys {', '.join(map(str, [*content][:8]))}")
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        return [{"image": names[said["image_id"]], "caption": said["caption"]} for said in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: COCO's captions have image_id and caption, its images id and file_name: {error!r}"
        ) from None
