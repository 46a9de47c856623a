"""The image benchmarks of parameter-efficient tuning: where their files lie, how many, how results are grouped.

VTAB-1k (arXiv 1910.04867) and the few-shot lists in the layout of NOAH's release (arXiv 2206.04673), FGVC in that of
VPT's (arXiv 2203.12119).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.evaluation.facts import read_facts
from xmodal.registry import did_you_mean

SPLITS = ("train", "val", "trainval", "test")
SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Task:
    """One data set of a benchmark.

    Args:
        name: short name.
        group: what its result is averaged with.
        num_classes: K.
        num_test: images of the test split.
        folders: names its folder may have below the benchmark's root.
        images: where images may lie below that folder.
    """

    name: str
    group: str
    num_classes: int
    num_test: int
    folders: tuple[str, ...] = ()
    images: tuple[str, ...] = ("images", ".")


BENCHMARKS: dict[str, dict[str, Task]] = {name: read_facts(name, Task) for name in ("vtab", "fgvc", "fewshot")}
ROOTS = {"vtab": "data/vtab-1k", "fgvc": "data/fgvc", "fewshot": "data/few-shot"}
_VTAB_FILES = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}


def task_of(benchmark: str, name: str) -> Task:
    """A task by name.

    Raises:
        ValueError: no such benchmark or task.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"no benchmark is called {benchmark!r}; {did_you_mean(benchmark, BENCHMARKS)}")
    if name not in BENCHMARKS[benchmark]:
        raise ValueError(f"{benchmark} has no task {name!r}; {did_you_mean(name, BENCHMARKS[benchmark])}")
    return BENCHMARKS[benchmark][name]


def files_of(
    benchmark: str, task: Task, split: str, root: str | Path | None = None, shots: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Annotation, root and format of a split, as arguments of `ImageDataset`.

    Args:
        benchmark: `vtab`, `fgvc` or `fewshot`.
        task: of that benchmark.
        split: `train` (for the search), `val`, `trainval` (VTAB: all 1000; elsewhere the same as `train`) or `test`.
        root: of the benchmark.
        shots: images per class of the few-shot lists.
        seed: of the few-shot lists.

    Raises:
        ValueError: a folder or file that is not there, with the names looked for.
    """
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; {did_you_mean(split, SPLITS)}")
    base = Path(root or ROOTS[benchmark])
    folder = first_of([base / name for name in task.folders], f"the folder of {benchmark}/{task.name}")
    if benchmark == "vtab":
        listing = first_of([folder / f"{_VTAB_FILES[split]}.txt"], f"the {split} list of {task.name}")
        return {"annotation": str(listing), "root": str(folder), "format": "list"}
    if benchmark == "fgvc":
        name = f"{'train' if split == 'trainval' else split}.json"
        listing = first_of([folder / name, folder / "annotations" / name], f"the {split} split of {task.name}")
        images = first_of([folder / name for name in task.images], f"the images of {task.name}")
        return {"annotation": str(listing), "root": str(images), "format": "json"}
    if shots not in SHOTS:
        raise ValueError(f"the few-shot lists have {SHOTS} shots, not {shots}")
    name = f"train_meta.list.num_shot_{shots}.seed_{seed}" if split.startswith("train") else f"{split}_meta.list"
    listing = first_of([folder / "annotations" / name, folder / name], f"the {split} list of {task.name}")
    images = first_of([folder / name for name in task.images], f"the images of {task.name}")
    return {"annotation": str(listing), "root": str(images), "format": "list"}


def first_of(places: list[Path], what: str) -> Path:
    """The first place that exists.

    Raises:
        ValueError: none does.
    """
    for place in places:
        if place.exists():
            return place
    raise ValueError(f"{what} is not there; looked for {', '.join(map(str, places))}")


def group_means(results: Mapping[str, float], benchmark: str) -> dict[str, float]:
    """Mean of every group that is complete, of the groups (`mean of groups`) and of the tasks (`mean of tasks`)."""
    tasks = BENCHMARKS[benchmark]
    means: dict[str, float] = {}
    for group in dict.fromkeys(task.group for task in tasks.values()):
        members = [name for name, task in tasks.items() if task.group == group]
        if all(name in results for name in members):
            means[group] = sum(results[name] for name in members) / len(members)
    if all(name in results for name in tasks):
        if len(means) > 1:
            means["mean of groups"] = sum(means.values()) / len(means)
        means["mean of tasks"] = sum(results[name] for name in tasks) / len(tasks)
    return means
