"""Write all that a terminal shows into the log file as well, and send curves to TensorBoard or wandb."""

import importlib
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.logging import print_log
from tqdm import tqdm

from xmodal.registry import did_you_mean

T = TypeVar("T")
PACKAGES = ("xmodal", "video", "pointcloud")
BACKENDS = {  # name -> mmengine's backend, the modules of which one is needed
    "tensorboard": ("TensorboardVisBackend", ("tensorboard", "tensorboardX")),
    "wandb": ("WandbVisBackend", ("wandb",)),
}


def share_files(logger: logging.Logger) -> None:
    """Let the warnings of the packages go to the log files of a run, and to the terminal as before."""
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    for name in PACKAGES:
        other = logging.getLogger(name)
        terminal = [logging.lastResort] if logging.lastResort is not None else []
        other.handlers = [*terminal, *files]


def counted(items: Iterable[T], title: str, total: int, seconds: float = 5.0) -> Iterator[T]:
    """Yield items under a progress bar; where there is no terminal, say every few seconds how many are done."""
    bar, told = tqdm(items, desc=title, total=total, disable=None), time.monotonic()
    for done, item in enumerate(bar):
        if bar.disable and time.monotonic() - told >= seconds:
            print_log(f"{title}: {done} of {total}", logger="current")
            told = time.monotonic()
        yield item


def note(logger: logging.Logger, text: str) -> None:
    """Write a line into the log files of a run alone; the terminal has it from elsewhere."""
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def log_to(cfg: Config, names: list[str]) -> None:
    """Send the curves of a run to TensorBoard or wandb too.

    Raises:
        ValueError: another name, or a package that is not installed, with the command that installs it.
    """
    backends: list[dict[str, Any]] = [{"type": "LocalVisBackend"}]
    for name in names:
        if name not in BACKENDS:
            raise ValueError(f"--log {name}: there are {', '.join(BACKENDS)}; {did_you_mean(name, BACKENDS)}")
        kind, modules = BACKENDS[name]
        if not any(is_installed(module) for module in modules):
            raise ValueError(f"--log {name}: {modules[0]} is not installed: pip install {modules[0]}")
        backends.append({"type": kind})
        if name == "wandb":
            backends[-1]["init_kwargs"] = {"project": "xmodal", "name": cfg.work_dir}
    cfg.visualizer = {"type": "Visualizer", "vis_backends": backends}


def is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
