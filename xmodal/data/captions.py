"""Read images with captions or labels from lists, folders, tar shards, or mixed, for contrastive pretraining.

Every sample is `image` (3, S, S) u8, `caption`, `label` (0 for a caption of its own, a class number from 1 for a label)
and `sample_id`. A sample's crop and template depend on (seed, epoch, index) alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from torch.utils.data import Dataset

from xmodal.data import stores
from xmodal.data.annotations import IMAGE_ENDINGS, IMAGES
from xmodal.data.caption_files import read_captions
from xmodal.data.pictures import ImageError, bytes_of, center_crop, random_crop, read_picture, to_array
from xmodal.data.samples import NO_LABEL, Sample
from xmodal.data.tars import Member, members_of, open_at
from xmodal.data.trouble import reading, retried
from xmodal.registry import DATASETS, build, check_arguments

ATTEMPTS = 20  # other samples tried in the place of an unreadable one
Key = int | tuple[int, int]


class Pairs(Dataset):
    """Draw samples of images and captions, and replace or name those that cannot be read.

    Args:
        seed: of crops and templates.
        **drawing: see `draw`.
    """

    def __init__(self, seed: int = 0, **drawing: Any):
        check_arguments(self.draw, drawing)
        self.draw(**drawing)
        self.seed, self.broken = seed, set[int]()
        self.classes: list[str] | None = None
        self.items: list[tuple[str, Any]] = []  # name of each sample, and what `read` needs to find it

    def draw(
        self, size: int = 224, crop: Mapping[str, Any] | None = None, test: bool = False, max_broken: float = 0.01
    ) -> None:
        """Set how samples are drawn.

        Args:
            size: S, pixels of the squares.
            crop: arguments of `pictures.random_crop` in training; default: half the area or more, never mirrored.
            test: cut the center, number classes from 0, and give unreadable samples as `skipped`.
            max_broken: share of samples that may be unreadable (5 always may).
        """
        self.size, self.crop = size, {"scale": (0.5, 1.0), "flip": False, **(crop or {})}
        check_arguments(random_crop, self.crop)
        self.test, self.max_broken = test, max_broken

    def read(self, where: Any) -> tuple[bytes, str | None, int]:
        """Read the bytes of a sample's image, its caption or None, and its class or -1."""
        raise NotImplementedError

    def caption_of(self, klass: int, rng: np.random.Generator) -> str:
        """A caption for a labeled image."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng([self.seed, epoch, index])
        replaced = []
        for _ in range(ATTEMPTS):
            try:
                picture, caption, klass = retried(partial(self.read_sample, index))
            except ImageError as error:
                note = {"skipped": self.items[index][0], "reason": str(error)}
                self.note_broken(index, note)
                if self.test:
                    return note
                replaced.append({"sample_id": note["skipped"], "reason": note["reason"]})
                index = int(rng.integers(len(self)))
                continue
            sample = self.sample(index, rng, picture, caption, klass)
            return {**sample, "replaced": replaced} if replaced else sample
        raise ValueError(f"{ATTEMPTS} samples one after the other cannot be read; the last: {replaced[-1]}")

    def note_broken(self, index: int, note: dict[str, str]) -> None:
        """Count an unreadable sample.

        Raises:
            ValueError: there are too many.
        """
        self.broken.add(index)
        if len(self.broken) > max(5, self.max_broken * len(self)):
            raise ValueError(f"{len(self.broken)} of {len(self)} samples cannot be read; the last: {note}")

    def read_sample(self, index: int) -> tuple[Image, str | None, int]:
        """Read a sample's picture, caption and class.

        Raises:
            ImageError: it cannot be read.
        """
        name, where = self.items[index]
        with reading(name, ImageError):
            data, caption, klass = self.read(where)
            return read_picture(data), caption, klass

    def sample(
        self, index: int, rng: np.random.Generator, picture: Image, caption: str | None, klass: int
    ) -> dict[str, Any]:
        """One sample."""
        cut = center_crop(picture, self.size) if self.test else random_crop(picture, self.size, rng, **self.crop)
        caption = self.caption_of(klass, rng) if caption is None else caption
        return {
            "image": to_array(cut),
            "caption": caption,
            "label": klass if self.test else klass + 1,
            "sample_id": self.items[index][0],
        }


@DATASETS.register_module(name="caption_list")
class CaptionList(Pairs):
    """Images and captions of tables (CSV, TSV, JSON, JSON lines) and of COCO's caption files.

    Args:
        files: one or several, see `caption_files.read_captions`.
        root: folder that image paths start from; default: that of each file.
        image_key: column of the path; default: found by its name (`image`, `file_name`, ...).
        caption_key: column of the caption; default: found by its name (`caption`, `text`, `title`, ...).
        seed: of crops and templates.
        **drawing: see `Pairs.draw`.

    Raises:
        ValueError: a file of another kind, one without the columns, none of its first images, or no caption at all.
    """

    def __init__(
        self, files: str | Sequence[str], root: str | None = None, image_key: str | None = None,
        caption_key: str | None = None, seed: int = 0, **drawing: Any,
    ):  # fmt: skip
        super().__init__(seed, **drawing)
        for file in [files] if isinstance(files, str) else files:
            base: Any = stores.root_of(root) if root else Path(file).parent
            pairs = [(stores.under(base, name), text) for name, text in read_captions(file, image_key, caption_key)]
            IMAGES.check_root([Sample(path, NO_LABEL, path) for path, _ in pairs[:20]], Path(file), base)
            self.items += [(path, (path, caption)) for path, caption in pairs]
        if not self.items:
            raise ValueError(f"no caption in {files}")

    def read(self, where: tuple[str, str]) -> tuple[bytes, str | None, int]:
        """Read an image and its caption."""
        return bytes_of(where[0]), where[1], -1


@DATASETS.register_module(name="labeled_folder")
class LabeledFolder(Pairs):
    """Images in one folder a class; a caption is a random template around the class's name.

    Args:
        root: holds the folders.
        class_names: name of every class, in the order of the sorted folders; default: the folders' names.
        templates: sentences with `{}`.
        seed: of crops and templates.
        **drawing: see `Pairs.draw`.

    Raises:
        ValueError: no folder with images, another number of names than folders, or a template without `{}`.
    """

    def __init__(
        self,
        root: str,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
        seed: int = 0,
        **drawing: Any,
    ):
        super().__init__(seed, **drawing)
        listing = IMAGES.read(root, format="folders")
        folders = listing.classes or []
        self.items = [(s.path, (s.path, s.label)) for s in listing.samples]
        self.classes = [name.replace("_", " ") for name in folders] if class_names is None else list(class_names)
        if len(self.classes) != len(folders):
            raise ValueError(f"{len(self.classes)} class_names for {len(folders)} folders in {root}")
        if any("{}" not in t for t in templates):
            raise ValueError(f"templates {list(templates)}: each needs a place {{}} for the class name")
        self.templates = list(templates)

    def read(self, where: tuple[str, int]) -> tuple[bytes, str | None, int]:
        """Read a labeled image."""
        return bytes_of(where[0]), None, where[1]

    def caption_of(self, klass: int, rng: np.random.Generator) -> str:
        """A random template around a class's name."""
        template = self.templates[0 if self.test else int(rng.integers(len(self.templates)))]
        return template.format(self.classes[klass])  # type: ignore[index]


@DATASETS.register_module(name="tar_shards")
class TarShards(Pairs):
    """Images and captions of tar shards in webdataset's layout: members of one stem are one sample.

    Heads are read once, or an index beside the tar (`xmodal pack --index`), so that any sample can be reached (and a
    run resumed) without unpacking.

    Args:
        shards: paths, patterns such as `data/shard-*.tar`, or tars with an index in a store (`s3://...`).
        seed: of crops and templates.
        **drawing: see `Pairs.draw`.

    Raises:
        ValueError: no sample with an image and a caption (`.txt`, or `.json` with `caption`).
    """

    def __init__(self, shards: str | Sequence[str], seed: int = 0, **drawing: Any):
        super().__init__(seed, **drawing)
        for pattern in [shards] if isinstance(shards, str) else shards:
            for path in stores.shards_of(pattern):
                name = path.rpartition("/")[2]
                self.items += [(f"{name}/{stem}", (path, members)) for stem, members in index_shard(path)]
        if not self.items:
            raise ValueError(f"no image with a caption in {shards}")

    def read(self, where: tuple[str, dict[str, Member]]) -> tuple[bytes, str | None, int]:
        """Read the members of a sample."""
        path, members = where
        member = lambda suffix: open_at(path, members[suffix]).read()  # noqa: E731
        data = member(next(s for s in members if s in IMAGE_ENDINGS))
        caption = member(".txt").decode() if ".txt" in members else json.loads(member(".json"))["caption"]
        return data, caption.strip(), -1


def index_shard(path: str) -> Iterator[tuple[str, dict[str, Member]]]:
    """Stems of a shard that have an image and a caption, with the members by their endings."""
    found: dict[str, dict[str, Member]] = {}
    for member in members_of(path):
        folder, _, name = member.name.rpartition("/")
        stem, dot, suffix = name.partition(".")
        found.setdefault(f"{folder}/{stem}", {})[(dot + suffix).lower()] = member
    for stem, spans in found.items():
        if {".txt", ".json"} & set(spans) and set(IMAGE_ENDINGS) & set(spans):
            yield stem.lstrip("/"), spans


@DATASETS.register_module(name="mixed_pairs")
class MixedPairs(Dataset):
    """Several sets one behind the other; classes of the same name are one class.

    Args:
        datasets: sets of this file, or their configs.
        seed: of those that do not set their own.
    """

    def __init__(self, datasets: Sequence[Any], seed: int = 0):
        self.datasets = [
            build({**cfg, "seed": cfg.get("seed", seed)} if isinstance(cfg, dict) else cfg, DATASETS)
            for cfg in datasets
        ]
        names = [name for d in self.datasets for name in d.classes or ()]
        self.classes = list(dict.fromkeys(names)) or None
        self.numbers: list[Callable[[int], int]] = []
        for part in self.datasets:
            own = (
                [0, *(1 + self.classes.index(name) for name in part.classes)] if part.classes and self.classes else [0]
            )
            self.numbers.append(own.__getitem__)
        self.ends = np.cumsum([len(d) for d in self.datasets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        which = int(np.searchsorted(self.ends, index, side="right"))
        first = int(self.ends[which - 1]) if which else 0
        sample = self.datasets[which][(epoch, index - first)]
        return sample if "skipped" in sample else {**sample, "label": self.numbers[which](sample["label"])}
