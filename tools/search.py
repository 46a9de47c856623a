"""Search your own pictures and videos: python tools/search.py FOLDER "a person opening a door"."""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Search pictures and videos by a sentence or by an example. The features of a folder are kept in "
        "an index, which is brought up to date by each search of the folder and may be interrupted at any time; a "
        "search of the index itself looks for no new files."
    )
    p.add_argument("where", metavar="FOLDER_OR_INDEX", help="a folder, pattern or list of files, or an index")
    p.add_argument("text", nargs="?", help="what to look for")
    p.add_argument("--like", metavar="FILE", help="look for files that are like this picture or video")
    p.add_argument("--index", help="folder of the index; default: .xmodal-index in the folder, or here")
    p.add_argument("--encoder", help="tiny-clip, or an open_clip model and its weights (ViT-B-16-quickgelu:openai)")
    p.add_argument("--top", type=int, default=20, help="files to show (20)")
    p.add_argument("--page", metavar="FILE", help="also write a page with the files found, which play")
    p.add_argument("--format", choices=("text", "json", "jsonl", "csv"), default="text", help="of what is printed")
    p.add_argument("--write", metavar="FILE", help="write there instead: .json, .jsonl, .csv, .txt")
    return p


def index_of(args: argparse.Namespace) -> str:
    """Return the folder of the index."""
    if args.index:
        return args.index
    where = Path(args.where)
    return str(where / ".xmodal-index" if where.is_dir() else Path(".xmodal-index"))


def main(argv: list[str] | None = None) -> int:
    """Search; returns the exit status, 1 when nothing was found."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    hits = []

    def job() -> None:
        from tqdm import tqdm

        from xmodal.use.finder import ABOUT, DEFAULT, SearchIndex, SearchTowers
        from xmodal.use.rows import written
        from xmodal.use.search_page import write_page

        if not args.text and not args.like:
            raise ValueError('nothing to look for: give a sentence ("a person opening a door") or --like FILE')
        is_index = (Path(args.where) / ABOUT).is_file()
        there = (Path(index_of(args)) / ABOUT).is_file()
        name = args.encoder or (None if is_index or there else DEFAULT)
        encoder = SearchTowers(name) if name else None  # before a folder is made for it
        index = SearchIndex(args.where if is_index else index_of(args), name)
        encoder = encoder or SearchTowers(index.encoder_name)
        if not is_index:
            index.add([args.where])
        with tqdm(total=len(index.rows), unit="file", desc="index", disable=None) as bar:
            for done, errors in index.fill(encoder):
                bar.update(done)
                for file, reason in errors.items():
                    print(f"{file} cannot be read: {reason}", file=sys.stderr)
        query = encoder.encode([encoder.read(args.like)])[0] if args.like else encoder.encode_text(args.text)
        hits.extend(index.search(query, args.top))
        with written(args.write, args.format) as out:
            for hit in hits:
                out.add(hit._asdict())
        if args.page:
            print(f"page: {write_page(args.page, args.text or Path(args.like).name, hits, index)}", file=sys.stderr)

    return run(job) or int(not hits)


if __name__ == "__main__":
    sys.exit(main())
