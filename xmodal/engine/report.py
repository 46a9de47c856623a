"""Write `report.json`: what a run trained, how, and its results."""

import json
import math
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook

import xmodal
from xmodal.atomic import write_text
from xmodal.engine.checkpoint import CheckpointHook, bare
from xmodal.engine.sizes import input_size
from xmodal.metrics import gather
from xmodal.registry import HOOKS

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "mmengine-lite",
    "mmengine",
    "av",
    "numpy",
)


def versions() -> dict[str, str]:
    """Return the versions of the packages that a run depends on."""
    found = {"xmodal": xmodal.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_model(model: torch.nn.Module) -> dict[str, Any]:
    """Return the counts of weights and the encoder's name and hash."""
    model = bare(model)
    find = getattr(model, "frozen_fingerprint", None)
    return {
        "encoder": dict(find()) if find else None,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "input_size": input_size(model),
    }


def lowest_are_best(runner: Any) -> set[str]:
    """Return the metrics whose lowest value is the best, from the run's checkpoint hooks."""
    return {hook.best for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.best and hook.sign < 0}


def finite(node: Any) -> Any:
    """Return a JSON tree whose NaN and infinities, which JSON does not have, are None."""
    if isinstance(node, dict):
        return {key: finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def peak_megabytes() -> float | None:
    """Return the most memory that this run held: on the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


@HOOKS.register_module(name="report")
class ReportHook(Hook):
    """Keep `report.json` in the work directory up to date.

    Keys: config, command, seed, device, processes, encoder, trained_parameters, total_parameters, versions, status
    (running, finished, stopped, failed), step, seconds, `history` (a list of step, loss, top1, lr, speed, one a logging
    interval), `epochs` (a list of step, epoch, train, val), best, skipped (unreadable samples seen in evaluation, or
    replaced in training), classes (names, in the order of `per_class` and `confusion`), shown (samples of the last
    evaluation that are worth looking at, see `xmodal.shown`), input_size, chosen_by (metric of best.pth), test.
    """

    priority = "LOWEST"

    def __init__(self, filename: str = "report.json"):
        self.filename = filename
        self.report: dict[str, Any] = {}

    def before_run(self, runner: Any) -> None:
        """Fill in what is known."""
        self.start, self.before = time.time(), 0.0
        self.report = {
            "config": Path(runner.cfg.filename).stem if runner.cfg.filename else None,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seed": runner.seed,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores",
            "processes": runner.world_size,
            **describe_model(runner.model),
            "chosen_by": next((h.best for h in runner.hooks if isinstance(h, CheckpointHook)), None),
            "versions": versions(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "status": "running", "step": 0, "seconds": 0.0, "history": [], "epochs": [], "best": {}, "skipped": [],
        }  # fmt: skip

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Store the report in the checkpoint, so that a resumed run continues its curves without gap or overlap."""
        self.note_broken(runner)
        self.report["step"] = checkpoint["meta"]["step"]
        self.report["seconds"] = round(self.before + time.time() - self.start, 1)
        checkpoint["report"] = json.dumps(self.report)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Continue the report of the checkpoint."""
        old = json.loads(checkpoint.get("report", "{}"))
        kept = ("history", "epochs", "best", "skipped", "classes", "shown", "started")
        self.report.update({k: old[k] for k in kept if k in old})
        self.before = old.get("seconds", 0.0)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note replaced samples, before a checkpoint of this step is written."""
        self.note((data_batch or {}).get("replaced", []))

    def note(self, entries: list[dict]) -> None:
        """Remember unreadable samples once."""
        known = {entry["sample_id"] for entry in self.report["skipped"]}
        for entry in entries:
            if entry["sample_id"] not in known:
                known.add(entry["sample_id"])
                self.report["skipped"].append(entry)

    def after_log(self, runner: Any, step: int, values: dict[str, float]) -> None:
        """Add a point of the curves."""
        self.report["history"].append({"step": step, **{k: round(v, 6) if k != "lr" else v for k, v in values.items()}})

    def note_broken(self, runner: Any) -> None:
        """Note the files that the training sets of all processes found unreadable; every process must call this."""
        broken = getattr(runner.train_dataloader.dataset, "broken", None) or []
        for part in gather([str(path) for path in broken if isinstance(path, str)]):
            self.note([{"sample_id": path, "reason": "replaced in training"} for path in part])

    def epoch_entry(self, runner: Any) -> dict[str, Any]:
        """Return the entry of the current step, made where there is none."""
        epochs = self.report["epochs"]
        if not epochs or epochs[-1]["step"] != runner.iter:
            epochs.append({"step": runner.iter, "epoch": round(runner.iter / runner.train_loop.steps_per_epoch, 4)})
        return epochs[-1]

    def after_log_epoch(self, runner: Any, step: int, values: dict[str, float]) -> None:
        """Add the means of an epoch, and the files that its data set found unreadable."""
        self.note_broken(runner)
        self.epoch_entry(runner)["train"] = values
        self.save(runner)

    def after_log_eval(self, runner: Any, stage: str, metrics: dict[str, Any], seconds: float) -> None:
        """Add the metrics of a validation or test."""
        self.note(metrics.get("skipped", []))
        for key in ("classes", "shown"):
            if key in metrics:
                self.report[key] = metrics[key]  # once: names of all entries, samples of the last one
        kept = {k: v for k, v in metrics.items() if k not in ("skipped", "classes", "shown")}
        entry = {**kept, "seconds": round(seconds, 2)}
        if stage == "test":
            self.report["test"] = entry
        elif runner.training:
            self.epoch_entry(runner)["val"] = entry
            best, lower = self.report["best"], lowest_are_best(runner)
            for key, value in metrics.items():
                sign = -1 if key in lower else 1
                if not isinstance(value, float) or not math.isfinite(value):
                    continue
                if key not in best or sign * value > sign * best[key]:
                    best[key] = value
        self.save(runner)

    def on_interrupt(self, runner: Any) -> None:
        """The user stopped the run."""
        self.report["status"] = "stopped"
        self.save(runner)

    def on_failure(self, runner: Any, error: Exception) -> None:
        """An error ended the run."""
        if self.report:  # the run had begun
            self.report |= {"status": "failed", "error": str(error).strip()}
            self.save(runner)

    def after_run(self, runner: Any) -> None:
        """Done."""
        self.report["status"] = "finished"
        self.report["peak_mb"] = peak_megabytes()
        self.save(runner)

    def save(self, runner: Any) -> None:
        """Write the file (rank 0)."""
        self.report["step"] = runner.iter
        self.report["seconds"] = round(self.before + time.time() - self.start, 1)
        if runner.rank == 0:
            text = json.dumps(finite(self.report), indent=1, default=str)
            write_text(Path(runner.work_dir) / self.filename, text)
