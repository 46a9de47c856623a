"""Load a trained model from a checkpoint, a work directory or a hub name, and call it on files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor

from pointcloud.datasets.files import ENDINGS as CLOUDS
from pointcloud.model import CloudModel
from pointcloud.predict import CloudPredictor
from video.annotations import VIDEOS
from video.datasets import VideoDataset
from video.frames import is_frame_folder
from xmodal.data.annotations import IMAGES
from xmodal.engine.config import CHECKPOINTS
from xmodal.engine.finetune import find_file
from xmodal.engine.inputs import Input, expand
from xmodal.engine.launch import prepare
from xmodal.engine.predict import Predictor
from xmodal.hub import fetched
from xmodal.registry import DATASETS, MODELS, resolve

ENDINGS = {"video": VIDEOS.endings, "image": IMAGES.endings, "cloud": CLOUDS}


class Features(NamedTuple):
    """Features of files.

    Args:
        files: that could be read, in order.
        values: their features (N, D), float32.
        errors: why the others could not be read, by file.
    """

    files: list[str]
    values: Tensor
    errors: dict[str, str]


class Loaded:
    """A trained model that answers for files. Safe to call from several threads.

    Args:
        cfg: from `prepare`.
        checkpoint: of a run of this config.
        amp: precision, `bf16` or `fp16`; None computes in float32.

    Attributes:
        kind: `video`, `image` or `cloud`: what it reads.
        classes: names by label.
        config: of the run.
        model: the module, in evaluation mode.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, amp: str | None = None):
        self.config, self.checkpoint, self.kind = cfg, str(checkpoint), kind_of(cfg)
        make = CloudPredictor if self.kind == "cloud" else Predictor
        self.predictor: Any = make(cfg, checkpoint, amp)

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes by label."""
        return self.predictor.classes

    @property
    def model(self) -> torch.nn.Module:
        """Return the module, in evaluation mode."""
        return self.predictor.model

    def inputs(self, named: str | Path | Sequence[str | Path], out: str | Path | None = None) -> list[Input]:
        """Find the files that were named.

        Args:
            named: files, folders, patterns and lists, see `xmodal.engine.inputs.expand`; for models of videos a folder
                of numbered frames is one video.
            out: folder of results, left out.

        Raises:
            ValueError: a folder, pattern or list without files that this model reads.
        """
        words = [str(word) for word in ([named] if isinstance(named, str | Path) else named)]
        return expand(words, ENDINGS[self.kind], out, *([is_frame_folder] if self.kind == "video" else []))

    def predict(self, files: str | Path | Sequence[str | Path], **options: Any) -> list[dict[str, Any]]:
        """Predict files, a batch at a time, the next ones read meanwhile.

        Args:
            files: see `inputs`.
            **options: `top`, how many classes to name, and `min_score`, the least score that is named; of clouds also
                `columns`, `unit` and `up` of the files.

        Returns:
            A dict of plain values for each file, in order: `file`, and `label`, `name`, `score`, `top`, `scores` (or
            what else the task finds: `boxes`, `segment`), or `error`, why it could not be read.
        """
        return list(self.stream([entry.path for entry in self.inputs(files)], **options))

    def stream(self, files: Sequence[str], **options: Any) -> Iterator[dict[str, Any]]:
        """Yield what `predict` returns for paths, one by one as they are done."""
        return self.predictor.stream(files, **options)

    def features(self, files: str | Path | Sequence[str | Path], **reading: Any) -> Features:
        """Compute the features that the model's head is given, for retrieval and statistics.

        Args:
            files: see `inputs`.
            **reading: of clouds, `columns`, `unit` and `up` of the files.

        Raises:
            ValueError: a model whose files have no one feature, such as a detector.
        """
        paths = [entry.path for entry in self.inputs(files)]
        rows = list(self.predictor.stream_features(paths, **reading))
        good = [row for row in rows if "feature" in row]
        values = torch.stack([row["feature"] for row in good]) if good else torch.zeros(0, 0)
        errors = {row["file"]: row["error"] for row in rows if "error" in row}
        return Features([row["file"] for row in good], values, errors)


def load(
    source: str | Path | tuple[str | Path, str | Path], *, amp: str | None = None, options: Sequence[str] = ()
) -> Loaded:
    """Load a trained model.

    Args:
        source: a checkpoint (`work_dirs/mine/best.pth`), a work directory, the name of a checkpoint or of a repository
            of huggingface.co that holds one (`user/name`), or a pair of a config and a checkpoint.
        amp: precision, `bf16` or `fp16`; None computes in float32.
        options: `key.path=value` changes of the config, such as `test_dataloader.batch_size=1`.

    Raises:
        ValueError: no such checkpoint, or one that does not fit its config.
    """
    if isinstance(source, tuple | list):
        config, checkpoint = source
        checkpoint = find_file(str(checkpoint), "")
    else:
        config = checkpoint = find_checkpoint(str(source))
    return Loaded(prepare(str(config), options=options, amp=amp), checkpoint, amp)


def find_checkpoint(name: str) -> Path:
    """Return the file of a checkpoint by path, work directory or name; one of huggingface.co is downloaded.

    Raises:
        ValueError: nothing there, with the places that were looked at.
    """
    try:
        return find_file(name, "")
    except ValueError as error:
        if name.endswith(CHECKPOINTS):
            raise
        try:
            folder = fetched(name, ["best.pth", "last.pth"])
        except FileNotFoundError as unknown:
            raise ValueError(f"{error}; and huggingface.co: {unknown}") from error
        found = [folder / file for file in ("best.pth", "last.pth") if (folder / file).is_file()] if folder else []
        if not found:
            raise
        return found[0]


def kind_of(cfg: Config) -> str:
    """Return what the model of a config reads: `video`, `image` or `cloud`.

    Raises:
        ValueError: a config without test data.
    """
    if issubclass(resolve(cfg.model.type, MODELS), CloudModel):
        return "cloud"
    if "test_dataloader" not in cfg:
        raise ValueError("the config defines no test_dataloader (or val_dataloader), which says how files are read")
    return "video" if issubclass(resolve(cfg.test_dataloader.dataset.type, DATASETS), VideoDataset) else "image"
