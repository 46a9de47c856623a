"""Say in a few lines what a run is about to do, and what came out."""

import shlex
from pathlib import Path
from typing import Any

from xmodal.command import spoken
from xmodal.engine.checkpoint import BEST, LAST, CheckpointHook, bare
from xmodal.engine.classes import names_of, some
from xmodal.engine.stored_config import CONFIG


def beginning(runner: Any) -> list[str]:
    """Return the lines on data, model, length and places of a run."""
    loop, model, config = runner.train_loop, bare(runner.model), runner.cfg
    data = loop.dataloader.dataset
    sets = [f"{len(data)} training samples"]
    val = getattr(runner.val_loop, "dataloader", None)
    if val is not None:
        every = f"{loop.val_interval} {'steps' if loop.by_steps else 'epochs'}" if loop.val_interval > 1 else (
            "step" if loop.by_steps else "epoch")  # fmt: skip
        sets.append(f"{len(val.dataset)} to validate every {every}")
    names = names_of(data)
    if names:
        sets.append(f"{len(names)} classes: {some(names)}")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    encoder = getattr(getattr(model, "encoder", None), "name", None)
    parts = [type(model).__name__, *(filter(None, [encoder])), *adapters_of(config)]
    reader, head = getattr(model, "reader", None), getattr(model, "head", None)
    parts += [type(part).__name__ for part in (reader, head) if part is not None]
    length = f"{loop.max_iters} steps" if loop.by_steps else f"{loop.max_epochs} epochs of {loop.steps_per_epoch} steps"
    done = f", {loop.iter} of {loop.max_iters} steps are done" if loop.iter else ""
    split = f" in {loop.batch_split} parts" if loop.batch_split > 1 else ""
    processes = f" on {runner.world_size} processes" if runner.world_size > 1 else ""
    return [
        f"data: {'; '.join(sets)}",
        f"model: {', '.join(parts)}: {trained:,} of {total:,} weights trained ({100 * trained / max(total, 1):.1f} %)",
        f"run: {length} of {loop.batch}{split}{processes} on {runner.device.type}{done}",
        f"results: {runner.work_dir} ({LAST}, {BEST}, report.json, {CONFIG}, log {log_file(runner)})",
    ]


def adapters_of(config: Any) -> list[str]:
    """Return the names of the adapters of a config."""
    kinds = [adapter.get("type") for adapter in (config.get("model") or {}).get("adapters") or ()]
    return [str(getattr(kind, "__name__", kind)).rpartition(".")[2] for kind in kinds]


def log_file(runner: Any) -> str:
    """Return the path of the log below the work directory."""
    found = [h.baseFilename for h in runner.logger.handlers if hasattr(h, "baseFilename")]
    if not found:
        return "none"
    path, folder = Path(found[0]), Path(runner.work_dir).absolute()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def ending(runner: Any) -> list[str]:
    """Return the lines on the best epoch, the figures, the files and the next command."""
    loop, folder = runner.train_loop, Path(runner.work_dir)
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    hook = hooks[0] if hooks else None
    lines = []
    kept = folder / LAST
    if hook is not None and hook.best_value is not None:
        kept, place = folder / BEST, ""
        if hook.best_step is not None:
            unit, at = ("step", hook.best_step) if loop.by_steps else ("epoch", hook.best_step / loop.steps_per_epoch)
            place = f" after {unit} {at:g} of {loop.max_iters if loop.by_steps else loop.max_epochs}"
        lines.append(f"best {hook.best} {hook.best_value:.2f}{place}: {kept}")
    files = [name for name in (LAST, "report.json", CONFIG) if (folder / name).exists() or name == "report.json"]
    lines.append(f"files: {', '.join(str(folder / name) for name in files)}, {folder / log_file(runner)}")
    tested = runner.cfg.get("val_evaluator") is not None
    return [*lines, f"next: {spoken('test')} {shlex.quote(str(kept))}"] if tested and hook is not None else lines
