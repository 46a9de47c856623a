"""The files of a saved adapter, and their way to huggingface.co and back."""

import json
from pathlib import Path
from typing import Any

from xmodal.torch_files import first_line

WEIGHTS, NOTES, CARD = "adapter.safetensors", "adapter.json", "README.md"


def read_notes(folder: Path) -> dict[str, Any]:
    """Read `adapter.json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that `save` did not write.
    """
    path = folder / NOTES
    if not path.is_file():
        raise FileNotFoundError(f"no adapter in {folder}: it needs {NOTES} and {WEIGHTS}")
    try:
        notes = json.loads(path.read_text())
        return {key: notes[key] for key in ("name", "method", "arguments", "encoder", "sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was not written by save ({type(error).__name__}: {error})") from error


def folder_of(source: str | Path) -> Path:
    """Return the folder of a saved adapter; what is no folder here and is called `user/name` is downloaded.

    Raises:
        FileNotFoundError: nothing of that name here, nor on huggingface.co.
    """
    return fetched(source, [WEIGHTS, NOTES]) or Path(source)


def fetched(source: str | Path, files: list[str]) -> Path | None:
    """Download files of a repository `user/name`; None for a folder that is here and for what is no such name.

    Raises:
        FileNotFoundError: nothing of that name on huggingface.co.
    """
    if Path(source).is_dir() or not isinstance(source, str) or source.count("/") != 1 or source.startswith((".", "/")):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=files))
    except Exception as error:  # its own errors, and those of the network below it
        reason = first_line(error)
        raise FileNotFoundError(f"no folder {source}, and huggingface.co does not give it: {reason}") from error


def push(folder: str | Path, repo: str, **options: Any) -> str:
    """Upload a folder to a repository, which is made where there is none; returns the page's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    address = str(api.create_repo(repo, exist_ok=True, **options))
    api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Adapter trained with xmodal")
    return address


def card(notes: dict[str, Any], repo: str, figures: str, command: str) -> str:
    """Return the page of an adapter: base model and its hash, method, figures, command, how to load it."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in notes["arguments"].items()) or "the defaults"
    parts = [
        f"---\nlibrary_name: xmodal\nbase_model: {notes['encoder']}\ntags: [xmodal, {notes['method']}]\n---",
        f"# {repo}",
        f"A `{notes['method']}` adapter ({arguments}) and its head for the frozen encoder `{notes['encoder']}`, whose "
        f"weights have the hash `{notes['sha256']}`.",
        f"## Figures\n\n{figures}" if figures else "",
        f"## Trained by\n\n```\n{command}\n```" if command else "",
        f'## Use\n\n```python\nimport xmodal\n\nmodel = xmodal.from_pretrained(base, "{repo}")\n```',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
