"""The steps that the demos share: run the project's tools, measure a training step, keep a table."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's memory profile warns of what was there before


def call(*words: str, log: Path | None = None, name: str = "") -> float:
    """Run one of the project's tools in a new process and return the seconds that it took.

    Args:
        *words: the tool and its arguments.
        log: a file that the output is appended to; None shows it.
        name: put in front of every line of the output, where several run side by side.

    Raises:
        RuntimeError: the tool failed.
    """
    print(f"{name}$ python", " ".join(words), flush=True)
    start = time.time()
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    env = {**os.environ, "PYTHONPATH": paths, **({"OMP_NUM_THREADS": "1"} if log or name else {})}
    with appended(log) as file:
        if name or file is not None:
            status = streamed(words, env, name, file)
        else:
            status = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, check=False).returncode
    if status:
        hint = f": see {log}" if log else ""
        raise RuntimeError(f"`python {' '.join(words)}` ended with status {status}{hint}")
    return time.time() - start


def streamed(words: Sequence[str], env: dict[str, str], name: str, log: TextIO | None) -> int:
    """Run a tool: every line into the log and some of them shown, or all shown with a name in front.

    Returns:
        The tool's exit status.
    """
    shown = LastLine(log) if log is not None else None
    with subprocess.Popen(
        [sys.executable, "-u", *words], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            if shown is not None:
                shown.write(line)
            else:
                print(f"{name}{line.rstrip().rpartition(' - INFO - ')[2]}", flush=True)
    return process.returncode


def appended(log: Path | None) -> Any:
    """Open a log for appending, its folder made; None stands for the terminal."""
    if log is None:
        return contextlib.nullcontext()
    log.parent.mkdir(parents=True, exist_ok=True)
    return open(log, "a")


class LastLine(io.TextIOBase):
    """Write into a log, and show its newest line on the terminal every few seconds.

    Args:
        log: the file.
        seconds: between two lines.
    """

    def __init__(self, log: TextIO, seconds: float = 5.0):
        self.log, self.seconds, self.terminal = log, seconds, sys.stdout
        self.next = time.monotonic() + seconds

    def write(self, text: str) -> int:
        """Write, and show the text when it is time for a line."""
        self.log.write(text)
        line = text.strip().rpartition(" - INFO - ")[2]
        if line and "\n" not in line and time.monotonic() >= self.next:
            print(f"    {line[:110]}", file=self.terminal, flush=True)
            self.next = time.monotonic() + self.seconds
        return len(text)

    def flush(self) -> None:
        """Flush the log."""
        self.log.flush()


def run_config(
    config: str, work: Path, seed: int, options: Sequence[str] = (), unsaid: Sequence[str] = (), **shown: Any
) -> dict[str, Any]:
    """Train a config and test its last weights, each in a new process.

    Args:
        config: path of the config.
        work: folder of the run.
        seed: of the run.
        options: of the config.
        unsaid: further ones, of the training alone.
        **shown: `log` or `name` of `call`.

    Returns:
        The `minutes` of the training, and the reports of `train` and `test`.
    """
    given = lambda more: ["--cfg-options", *more, *options] if more or options else []  # noqa: E731
    words = ["--work-dir", str(work), "--seed", str(seed), "--no-report", *given(unsaid)]
    seconds = call("tools/train.py", config, *words, **shown)
    call("tools/test.py", config, str(work / "last.pth"), *given(()), **shown)
    train, test = (json.loads((work / f"{name}.json").read_text()) for name in ("report", "test"))
    return {"minutes": seconds / 60, "train": train, "test": test["test"]}


def call_here(tool: str, *words: str, log: Path) -> None:
    """Run tools/<tool>.py in this process: many short runs need not start Python and torch each time.

    Raises:
        ValueError: the tool failed.
    """
    print(f"$ python tools/{tool}.py", " ".join(f'"{w}"' if " " in w else w for w in words), flush=True)
    with appended(log) as file:
        shown = LastLine(file)
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            status = importlib.import_module(f"tools.{tool}").main(list(words))
    if status:
        raise ValueError(f"tools/{tool}.py ended with status {status}: {log.read_text().strip().splitlines()[-1]}")


def train_and_test(
    config: str, work: Path, seed: int, options: Sequence[str], test: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a config in this process, without saying much, and test its last weights.

    Returns:
        The contents of report.json, and the test's metrics (empty without a test).
    """
    log, given = work / "log.txt", ["--cfg-options", *options, "default_hooks.progress.interval=20"]
    call_here("train", config, "--work-dir", str(work), "--seed", str(seed), "--no-report", *given, log=log)
    report = json.loads((work / "report.json").read_text())
    if not test:
        return report, {}
    call_here("test", config, str(work / "last.pth"), *given, log=log)
    return report, json.loads((work / "test.json").read_text())["test"]


def step_costs(cfg: Any) -> dict[str, Any]:
    """Measure a training step of a config on its first batch: a row of `benches.measure.rows`, with the peak."""
    from tools.benches.measure import Variant, rows, run_alternating, train_step
    from xmodal.data.collate import collate
    from xmodal.engine.sizes import dataset_for
    from xmodal.registry import MODELS, build

    model = build(cfg.model, MODELS).train()
    data = dataset_for(model, cfg.train_dataloader.dataset)
    batch = model.data_preprocessor(collate([data[0, i] for i in range(cfg.train_dataloader.batch_size)]), True)
    return rows(run_alternating([Variant("step", train_step, lambda: (model, batch))], 5, peak=True))[0]


def write_page(folders: Mapping[str, Path], path: Path, title: str, note: str = "") -> Path:
    """Write the report of some runs, beside each other under names of their own; returns the page."""
    from xmodal.use.report import write_report
    from xmodal.use.runs import read_runs

    runs = read_runs([str(folder) for folder in folders.values()])
    for run, name in zip(runs, folders, strict=True):
        run.name = name
    return write_report(runs, path, title, note)


def keep_table(out: Path, rows: Sequence[Sequence[str]], results: list[dict[str, Any]], title: str) -> None:
    """Print a table and write it as table.md, the results as table.json."""
    from xmodal.evaluation.results import markdown

    out.mkdir(parents=True, exist_ok=True)
    text = f"{title}\n\n{markdown(rows[0], rows[1:])}"
    print(f"\n{text}", flush=True)
    (out / "table.md").write_text(text + "\n")
    (out / "table.json").write_text(json.dumps(results, indent=1, default=str) + "\n")
