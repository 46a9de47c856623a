"""Read what a run left in its work directory."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from xmodal.data.lists import load_json
from xmodal.data.loader import build_dataset
from xmodal.engine.checkpoint import BEST, LAST
from xmodal.engine.config import load_config
from xmodal.engine.sizes import sized

log = logging.getLogger("xmodal.use")
WHOLE = ("seconds", "evaluated", "of", "epoch", "step", "unlabeled", "not_finite")  # numbers that are no figures


@dataclass
class Run:
    """A run.

    Args:
        folder: its work directory.
        report: content of report.json.
        test: metrics of test.json, empty where there was no test.
        name: on pages.
    """

    folder: Path
    report: dict[str, Any]
    test: dict[str, Any]
    name: str
    shown: list[dict[str, Any]] = field(default_factory=list)
    stage: str = "val"

    @property
    def config(self) -> Config | None:
        """Return the config, None where it is gone or of another version."""
        try:
            return load_config(self.folder / "config.py")
        except (ValueError, OSError, KeyError, AttributeError) as error:
            log.warning("%s: %s", self.folder / "config.py", error)
            return None

    @property
    def checkpoint(self) -> Path | None:
        """Return the checkpoint to look at."""
        return next((self.folder / name for name in (BEST, LAST) if (self.folder / name).is_file()), None)

    @property
    def validation(self) -> dict[str, Any]:
        """Return the metrics of the last validation."""
        return next((e["val"] for e in reversed(self.report.get("epochs", [])) if "val" in e), {})

    @property
    def last(self) -> dict[str, Any]:
        """Return the metrics of the test, or of the last validation."""
        return self.test or self.validation

    @property
    def key(self) -> str | None:
        """Return the metric that is looked at first: the one that chose the best checkpoint, else the first figure."""
        figures, chosen = self.figures, self.report.get("chosen_by")
        return chosen if chosen in figures else next(iter(figures), None)

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures of the last evaluation."""
        return {k: v for k, v in self.last.items() if isinstance(v, float) and k not in WHOLE}

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, numbers where there are none."""
        count = len(self.last.get("per_class") or self.last.get("confusion") or ())
        names = [str(name) for name in self.report.get("classes") or ()]
        return names if len(names) >= count else [str(i) for i in range(count)]

    def dataset(self, stage: str) -> Any:
        """Build a data set of the run, with the sizes of its encoder; None where that fails, which is logged."""
        cfg = self.config
        loader = None if cfg is None else cfg.get(f"{stage}_dataloader")
        if not loader:
            return None
        try:
            data = sized(loader["dataset"], self.report.get("input_size"))
            return build_dataset(data, seed=self.report.get("seed") or 0)
        except (ValueError, OSError, KeyError, TypeError) as error:
            log.warning("%s: the data of its %s are not shown: %s", self.folder, stage, error)
            return None


def read_run(folder: str | Path) -> Run:
    """Read a work directory.

    Raises:
        ValueError: none, or one whose report is damaged.
    """
    folder = Path(folder)
    paths = (folder / "report.json", folder / "test.json")
    report, test = (load_json(path, dict, "a report of a run") if path.is_file() else {} for path in paths)
    if not report and not test:
        raise ValueError(f"no report.json in {folder}: a work directory of tools/train.py has one")
    report = report or test
    seen = test if test.get("shown") else report
    name = str(report.get("config") or folder.name)
    return Run(folder, report, test.get("test", {}), name, seen.get("shown", []), "test" if seen is test else "val")


def read_runs(folders: list[str]) -> list[Run]:
    """Read work directories; runs of one name are told apart by their folders."""
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder)
    return runs
