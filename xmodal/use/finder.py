"""Encode pictures, videos and sentences with a CLIP, and keep the features of one's files in an index on disk."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.device import get_device
from torch import Tensor
from torch.nn.functional import normalize as unit

from video.annotations import VIDEOS
from video.datasets import read_views
from video.sampling import UniformSampling
from video.transforms import TestCrops
from xmodal.atomic import write_text
from xmodal.data.annotations import IMAGES
from xmodal.data.pictures import center_crop, read_picture, to_array
from xmodal.data.trouble import words_of
from xmodal.encoders.clip import CLIP
from xmodal.encoders.openclip_weights import open_clip_clip
from xmodal.encoders.tiny import tiny_clip
from xmodal.engine.inputs import expand
from xmodal.engine.predict import ahead
from xmodal.evaluation.bank import FeatureBank, read_features
from xmodal.preprocessor import normalize

ABOUT, FILES = "index.json", "files.jsonl"
PART = 4096  # files whose features are kept in one file
BATCH = 32  # files that are read, encoded and written together
FRAMES = 8  # of a video
DEFAULT = "ViT-B-16-quickgelu:openai"


class SearchTowers:
    """Both towers of a CLIP, and how files are read for it.

    Args:
        name: `tiny-clip`, or a name of open_clip and its weights: `ViT-B-16-quickgelu:openai`.

    Raises:
        ValueError: no such model.
        FileNotFoundError: weights that are neither cached nor reachable.
    """

    def __init__(self, name: str = DEFAULT):
        model, _, weights = name.partition(":")
        self.name = name
        self.clip: CLIP = tiny_clip() if name == "tiny-clip" else open_clip_clip(model, weights or None)
        self.clip.to(get_device()).eval()
        visual = self.clip.visual
        self.size = int(visual.image_size)
        self.mean, self.std = torch.tensor(visual.pixel_mean), torch.tensor(visual.pixel_std)

    def read(self, path: str) -> Tensor:
        """Read a picture, or even frames of a video (T, 3, S, S), of 0 to 255.

        Raises:
            Exception: whatever reading raises.
        """
        if Path(path).suffix.lower() in IMAGES.endings:
            return torch.from_numpy(to_array(center_crop(read_picture(path), self.size)))[None].float()
        return read_views(path, UniformSampling(FRAMES), TestCrops(self.size))[0]

    @torch.no_grad()
    def encode(self, items: Sequence[Tensor]) -> Tensor:
        """Encode files that were read; returns unit vectors (N, D), the mean over the frames of a video."""
        pixels = normalize(torch.cat(list(items)), self.mean, self.std).to(self.clip.logit_scale.device)
        features = unit(self.clip.encode_image(pixels).float(), dim=-1).cpu()
        return unit(torch.stack([part.mean(0) for part in features.split([len(item) for item in items])]), dim=-1)

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        """Encode a sentence to a unit vector (D,)."""
        return unit(self.clip.encode_sentences([text]).float(), dim=-1)[0].cpu()


class Hit(NamedTuple):
    """A file that was found, and the cosine of its feature to what was looked for."""

    file: str
    score: float


class SearchIndex:
    """Features of files in a folder on disk. It can be interrupted at any time and goes on where it was.

    Args:
        folder: of the index.
        encoder: name; None takes that of the index.

    Raises:
        ValueError: no index there, or one of another encoder.
    """

    def __init__(self, folder: str | Path, encoder: str | None = None):
        self.folder = Path(folder)
        path = self.folder / ABOUT
        if path.is_file():
            about = json.loads(path.read_text())
            if encoder not in (None, about["encoder"]):
                raise ValueError(f"{folder} is an index of {about['encoder']}: give --encoder {about['encoder']}, or "
                                 "another --index")  # fmt: skip
        elif encoder is None:
            raise ValueError(f"no index at {folder}: it has no {ABOUT}")
        else:
            about = {"encoder": encoder}
            write_text(path, json.dumps(about))
        self.encoder_name: str = about["encoder"]
        self.bank = FeatureBank(self.folder)
        self.rows = [json.loads(line) for line in self.lines()]

    def lines(self) -> list[str]:
        """Return the whole lines of the list of files; the last one of a killed run may be none."""
        path = self.folder / FILES
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
        if text and not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            write_text(path, text)
        return text.splitlines()

    def add(self, named: Sequence[str]) -> None:
        """Take in files: names of folders, patterns and lists. A file that has changed is encoded again.

        Raises:
            ValueError: a folder without pictures and videos.
        """
        known = {(row["path"], row["size"], row["time"]) for row in self.rows}
        skip = str(self.folder)
        found = [row_of(entry.path) for entry in expand(named, IMAGES.endings + VIDEOS.endings, skip)]
        new = [row for row in found if (row["path"], row["size"], row["time"]) not in known]
        with open(self.folder / FILES, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        self.rows += new

    def fill(self, encoder: SearchTowers) -> Iterator[tuple[int, dict[str, str]]]:
        """Encode the files that are not yet; yields how many are done, and those that could not be read, and why."""
        dim = encoder.clip.out_dim
        for part in range(0, len(self.rows), PART):
            name, numbers = self.name(part), range(part, min(part + PART, len(self.rows)))
            done = read_features(self.bank.file(name)).keys()
            missing = [i for i in numbers if i not in done]
            for at in range(0, len(missing), BATCH):
                errors: dict[str, str] = {}

                def compute(rows: list[int], errors: dict[str, str] = errors) -> Tensor:
                    out = torch.full((len(rows), dim), torch.nan, dtype=torch.float16)
                    items = dict(ahead(self.reader(encoder, errors), rows, 2, 2 * BATCH))
                    good = [row for row in rows if items[row] is not None]
                    if good:
                        found = encoder.encode([items[row] for row in good]).half()
                        out[[rows.index(row) for row in good]] = found
                    return out

                self.bank.get(name, missing[at : at + BATCH], compute, BATCH)
                yield len(missing[at : at + BATCH]), errors
            self.bank.kept.pop(name, None)

    def reader(self, encoder: SearchTowers, errors: dict[str, str]) -> Any:
        """Return a function that reads the file of a row, and notes why it cannot."""

        def read(row: int) -> Tensor | None:
            path = self.rows[row]["path"]
            try:
                return encoder.read(path)
            except Exception as error:
                errors[path] = getattr(error, "reason", None) or words_of(error)
                return None

        return read

    def name(self, part: int) -> str:
        """Return the name of the part that begins with a row."""
        return f"part-{part // PART:05d}"

    def search(self, query: Tensor, top: int = 20) -> list[Hit]:
        """Find the files nearest to a unit vector (D,), exactly.

        Files that have changed or gone since they were encoded are left out.
        """
        latest = {row["path"]: number for number, row in enumerate(self.rows)}
        best = torch.zeros(0), torch.zeros(0, dtype=torch.long)
        for part in range(0, len(self.rows), PART):
            features = read_features(self.bank.file(self.name(part)))
            numbers = [i for i in features if i < len(self.rows) and latest[self.rows[i]["path"]] == i]
            if not numbers:
                continue
            scores = torch.stack([features[i] for i in numbers]).float() @ query.float()
            scores = scores.nan_to_num(-2.0)
            best = torch.cat([best[0], scores]), torch.cat([best[1], torch.tensor(numbers)])
            kept = best[0].topk(min(4 * top, len(best[0]))).indices  # some may be gone
            best = best[0][kept], best[1][kept]
        found = ((self.rows[i]["path"], s) for i, s in zip(best[1].tolist(), best[0].tolist(), strict=True))
        hits = [Hit(path, round(score, 6)) for path, score in found if score > -2 and os.path.exists(path)]
        return hits[:top]


def row_of(path: str) -> dict[str, Any]:
    """Return what tells whether a file has changed: its path, size and time."""
    size, time = 0, 0
    with contextlib.suppress(OSError):
        status = os.stat(path)
        size, time = status.st_size, status.st_mtime_ns
    return {"path": os.path.abspath(path), "size": size, "time": time}
