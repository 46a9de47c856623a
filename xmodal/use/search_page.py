"""The page of a search: the files that were found, best first, as videos that play and pictures."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

from xmodal import page
from xmodal.atomic import write_text
from xmodal.data.annotations import IMAGES
from xmodal.data.pictures import read_picture
from xmodal.use.exhibits import film_of, picture_of
from xmodal.use.finder import Hit, SearchIndex
from xmodal.use.report import ROOM, Budget


def write_page(path: str | Path, asked: str, hits: Sequence[Hit], index: SearchIndex) -> Path:
    """Write the page.

    Args:
        path: of the page.
        asked: what was looked for.
        hits: from `SearchIndex.search`.
        index: that was searched.
    """
    budget = Budget(ROOM)
    parts = [budget.part(partial(shown, hit, place)) for place, hit in enumerate(hits, 1)]
    said = f"{len(hits)} of {len(index.rows):,} files, by the cosine of the features of {index.encoder_name}"
    table = page.table(("", "cosine", "file"), [[i, f"{h.score:.4f}", h.file] for i, h in enumerate(hits, 1)], fold=8)
    content = [f"<p>{escape(said)}</p>", page.exhibits([part for part in parts if part]), table]
    write_text(path, page.document(asked, content))
    return Path(path)


def shown(hit: Hit, place: int) -> str:
    """Return one file that was found."""
    is_picture = Path(hit.file).suffix.lower() in IMAGES.endings
    inside = picture_of(read_picture(hit.file)) if is_picture else film_of(hit.file)
    return page.exhibit(inside, f"<b>{place}</b> &nbsp; {hit.score:.3f}", f"<code>{escape(hit.file)}</code>")
