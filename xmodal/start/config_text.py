"""Write the config of a user's data as Python that reads well."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xmodal.data.walk import printable
from xmodal.start.recipes import METHODS, EncoderRecipe, MethodRecipe, Scale

SIDES = re.compile(r"(?i)left|right|clockwise|links|rechts|gauche|droite|izquierd|derech")
ENGINE = (
    "from xmodal.engine.checkpoint import CheckpointHook",
    "from xmodal.engine.progress import ProgressHook",
    "from xmodal.engine.report import ReportHook",
    "from xmodal.engine.schedule import CosineSchedule",
)


@dataclass(frozen=True)
class Draft:
    """All that a config says.

    Args:
        title: what it trains on what.
        command: that wrote it.
        train: the command that trains it.
        task: `video`, `image` or `cloud`.
        method: a key of `METHODS`.
        encoder: of the config.
        scale: batch, epochs and rates.
        classes: names by number.
        lists: folder of the lists, with `train`, `val`, perhaps `test`.
        parts: number of samples of each split.
        seconds: median length of the videos, None where not known.
        multilabel: several classes a sample.
        uneven: words on classes out of balance, empty where they are not.
        dim: width of the tower.
        heads: of the tower.
        workers: processes that read samples.
        size: pixels of the tower.
    """

    title: str
    command: str
    train: str
    task: str
    method: str
    encoder: EncoderRecipe
    scale: Scale
    classes: Sequence[str]
    lists: Path
    parts: dict[str, int]
    seconds: float | None = None
    multilabel: bool = False
    uneven: str = ""
    dim: int = 768
    heads: int = 12
    workers: int = 1
    size: int = 224

    @property
    def recipe(self) -> MethodRecipe:
        """Return the method."""
        return METHODS[self.method]

    @property
    def placed(self) -> tuple[str, ...]:
        """Return the lines of the model that place the method."""
        return self.recipe.tiny_model if self.encoder.tiny and self.recipe.tiny_model else self.recipe.model

    @property
    def means_frames(self) -> bool:
        """Return whether features of the frames are averaged over time: videos, and a method without a reader."""
        return self.task == "video" and not any("reader=" in line for line in self.placed)


def text_of(plan: Draft) -> str:
    """Return the config of a plan."""
    parts = [head(plan), "\n".join(imports(plan)), classes_text(plan), model(plan), data(plan), training(plan)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def head(plan: Draft) -> str:
    """Return the docstring."""
    text = (
        f"{plan.title}\n\nWritten by `{plan.command}`; every value may be changed.\n"
        f"Command: {plan.train}\nMeasured here: nothing.\n"
    )
    quotes = '"' * 3
    body = "\n".join(printable(line) for line in text.split("\n")).replace("\\", "/").replace(quotes, "'")
    return f"{quotes}{body}{quotes}"


def imports(plan: Draft) -> list[str]:
    """Return the import lines in order."""
    task = {
        "video": ["from video.datasets import VideoDataset", f"from video.sampling import {sampling(plan)[0]}"],
        "image": ["from xmodal.data.images import ImageDataset"],
        "cloud": [
            "from pointcloud.classification import EPCLClassifier", "from pointcloud.datasets.own import OwnClouds",
            "from pointcloud.metrics import CloudAccuracy", "from pointcloud.model import CloudModel",
            "from pointcloud.transforms import RandomPoints, ScaleShift, UnitBall",
        ],
    }[plan.task]  # fmt: skip
    if plan.task != "cloud":
        task.append(f"from xmodal.data.transforms import {', '.join(sorted(names_of(plan)))}")
        head, metric = kinds(plan)
        task.append("from xmodal.model import TransferModel")
        task.append(f"from xmodal.heads.{'multilabel' if plan.multilabel else 'classification'} import {head}")
        task.append(f"from xmodal.{'multilabel' if plan.multilabel else 'metrics'} import {metric}")
    lines = [*task, *plan.recipe.imports, plan.encoder.imports, *ENGINE]
    if plan.means_frames:
        lines.append("from video.readers import TimeMeanReader")
    key = lambda line: line.split()[1]  # noqa: E731
    return ["from torch.optim import AdamW", "", *sorted(set(lines), key=key)]


def kinds(plan: Draft) -> tuple[str, str]:
    """Return the names of head and metric."""
    return ("MultiLabelHead", "MultiLabelMetric") if plan.multilabel else ("ClassificationHead", "Accuracy")


def classes_text(plan: Draft) -> str:
    """Return the class names, a few a line."""
    rows, row = [], ""
    for name in plan.classes:
        word = f"{quoted(name)}, "
        if len(row) + len(word) > 108:
            rows.append(row.rstrip())
            row = ""
        row += word
    rows.append(row.rstrip())
    body = "\n".join(f"    {row}" for row in rows)
    lists = f"_lists = {quoted(str(plan.lists))}  # a line a file: path, tab, class; broken files are left out"
    return f"_classes = [  # numbered in this order\n{body}\n]\n{lists}"


def quoted(text: str) -> str:
    """Return a text as a Python string, in double quotes where it needs no others."""
    return repr(text) if any(c in repr(text)[1:-1] for c in "'\"\\") else f'"{text}"'


def model(plan: Draft) -> str:
    """Return the model."""
    if plan.task == "cloud":
        size = "num_groups=40, group_size=16, scale=0.3, width=32, hidden=128, dropout=0.1" if plan.encoder.tiny else (
            "num_groups=64, group_size=32")  # fmt: skip
        return (
            f"model = dict(\n    type=CloudModel,\n    encoder={plan.encoder.text},  # frozen\n"
            f"    network=dict(type=EPCLClassifier, num_classes={len(plan.classes)}, {size}),\n)"
        )
    recipe = plan.recipe
    filled = [
        re.sub(
            r"\b(FRAMES|DIM|HEADS)\b", lambda m: str({"FRAMES": 8, "DIM": plan.dim, "HEADS": plan.heads}[m[0]]), line
        )
        for line in plan.placed
    ]
    if plan.means_frames:
        filled.append("reader=dict(type=TimeMeanReader),  # features of the frames, averaged over time")
    options = "".join(f", {part}" for part in [recipe.head] if part)
    head = f"head=dict(type={kinds(plan)[0]}, num_classes={len(plan.classes)}{options}),"
    weight = f'  # class_weights="balanced": {plan.uneven}' if plan.uneven else ""
    body = "\n".join(f"    {line}" for line in [*filled, head + weight])
    return (
        f"# Images and clips come in the encoder's {plan.size} px everywhere; `image_size=` in it changes that.\n"
        f"model = dict(\n    type=TransferModel,\n    encoder={plan.encoder.text},"
        f"{'' if plan.method == 'finetune' else '  # frozen'}\n{body}\n)"
    )


def sampling(plan: Draft) -> tuple[str, str]:
    """Return the name and the text of the sampling: whole videos where they are short, dense clips of long ones."""
    if plan.seconds is None or plan.seconds <= 15:
        return "UniformSampling", "dict(type=UniformSampling),  # a frame of each of 8 equal parts of the video"
    return "DenseSampling", "dict(type=DenseSampling, stride=16),  # 8 frames, 16 apart"


def transforms(plan: Draft) -> tuple[list[str], list[str]]:
    """Return the transforms of training and of testing."""
    flip = [] if any(SIDES.search(name) for name in plan.classes) else ["dict(type=HorizontalFlip)"]
    if plan.task == "video":
        return ["dict(type=ShortSideJitter)", "dict(type=RandomCrop)", *flip], []
    if plan.task == "image":
        return (
            ["dict(type=RandomResizedCrop, area=(0.5, 1.0), antialias=True)", *flip],
            ["dict(type=Resize)", "dict(type=CenterCrop)"],
        )
    count = 512 if plan.encoder.tiny else 1024
    start = ["dict(type=UnitBall)", f"dict(type=RandomPoints, num_points={count})"]
    return [*start, "dict(type=ScaleShift, scale=(0.8, 1.25), shift=0.1)"], start


def names_of(plan: Draft) -> set[str]:
    """Return the transforms that a plan uses."""
    return {name for part in transforms(plan) for line in part for name in re.findall(r"type=(\w+)", line)}


def data(plan: Draft) -> str:
    """Return the data sets and loaders."""
    train, test = transforms(plan)
    kind = {"video": "VideoDataset", "image": "ImageDataset", "cloud": "OwnClouds"}[plan.task]
    shared = f"_set = dict(type={kind}, classes=_classes"
    if plan.task == "video":
        shared = f"_set = dict(\n    type={kind},\n    classes=_classes,\n    num_frames=8,\n"
        shared += f"    sampling={sampling(plan)[1]}\n"
    shared += ")"
    workers = f"num_workers={plan.workers}" + (", persistent_workers=True" if plan.workers else "")
    loaders = [shared]
    for part in ("train", "val", "test"):
        if part not in plan.parts:
            continue
        lines = train if part == "train" else test
        mode = "" if part == "train" else ", test_mode=True"
        inner = f'**_set, annotation=f"{{_lists}}/{part}.txt"{mode}'
        if lines:
            inner += ",\n        transforms=[\n" + "".join(f"            {line},\n" for line in lines) + "        ]"
        batch = plan.scale.batch if part == "train" else max(2 * plan.scale.batch, 8)
        note = (
            f"  # balanced=True draws all classes equally often: {plan.uneven}"
            if plan.uneven and part == "train"
            else ""
        )
        loaders.append(
            f"{part}_dataloader = dict(  # {plan.parts[part]} {plan.task}s\n    batch_size={batch},{note}\n"
            f"    {workers},\n"
            f"    dataset=dict(\n        {inner},\n    ),\n)"
        )
    if "test" not in plan.parts:
        loaders.append("# No test split: the validation data are tested.")
    return "\n".join(loaders)


def training(plan: Draft) -> str:
    """Return optimizer, schedule, length, metrics and hooks."""
    metric = "CloudAccuracy" if plan.task == "cloud" else kinds(plan)[1]
    best = "mAP" if metric == "MultiLabelMetric" else "top1"
    steps = -(-plan.parts["train"] // plan.scale.batch) * plan.scale.epochs
    why = "\n".join(f"# {line}" for line in textwrap.wrap(plan.scale.why, 116))
    cache = ""
    if plan.recipe.cached and plan.task != "cloud":
        views = plan.recipe.cached
        cache = (
            f"# The frozen part is computed once, for {views} random views of a training sample, and kept on disk.\n"
            f"cache = dict(views={views})\n"
        )
    return (
        f"{cache}{why}\n"
        "optim_wrapper = dict(\n"
        f"    optimizer=dict(type=AdamW, lr={plan.scale.rate:g}, weight_decay={plan.recipe.decay:g}),\n"
        f"    {plan.recipe.optim},\n)\n"
        f"param_scheduler = dict(type=CosineSchedule, warmup_epochs={plan.scale.epochs / 10:g})\n"
        f"train_cfg = dict(max_epochs={plan.scale.epochs}, val_interval={max(1, plan.scale.epochs // 10)})\n"
        f"randomness = dict(seed=0)\n"
        f"val_evaluator = dict(type={metric})\ntest_evaluator = dict(type={metric})\n"
        "default_hooks = dict(\n"
        f"    progress=dict(type=ProgressHook, interval={max(1, min(50, steps // 20))}),  # steps between two lines\n"
        f'    checkpoint=dict(type=CheckpointHook, best="{best}"),\n    report=dict(type=ReportHook),\n)'
    )
