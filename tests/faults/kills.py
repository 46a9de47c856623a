"""Kill training runs at random moments and compare each resumed run, bit for bit, with one that was never killed.

    python -m tests.faults.kills --kills 100 --seed 0 [--table docs/reliability.md]

A run of each kind is trained once to its end. Then runs of the same command are killed (SIGKILL to the whole process
group, after a random share of the time that the whole run took; some twice) and resumed. Weights, optimizer, random
states and report must equal those of the whole run, or the resumed run says in one line why it cannot go on.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from xmodal.torch_files import read_torch

ROOT = Path(__file__).parents[2]
VIDEO = ["train_cfg.max_epochs=2", "train_cfg.val_interval=1", "train_dataloader.batch_size=4"]
KINDS: dict[str, dict[str, Any]] = {
    "video": {"config": "configs/video/st-adapter_tiny-clip_8u_actions8.py", "options": VIDEO},
    "video, cached": {
        "config": "configs/video/probe_tiny-clip_8u_actions8.py", "options": [*VIDEO, "cache.root=c", "cache.shard=8"],
    },
    "video, 2 processes": {
        "config": "configs/video/st-adapter_tiny-clip_8u_actions8.py", "options": VIDEO, "processes": 2,
    },
    "image": {
        "config": "configs/image/lora_tiny-clip_48_digits.py",
        "options": ["train_cfg.max_epochs=2", "param_scheduler.warmup_epochs=0"],
    },
    "cloud": {
        "config": "configs/pointcloud/epcl_tiny-clip_512_objects.py",
        "options": ["train_cfg.max_epochs=2", "train_cfg.val_interval=1", "param_scheduler.warmup_steps=2"],
    },
    "contrastive": {
        "config": "configs/pretrain/unicl_tiny-clip_32_shapes.py",
        "options": ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", "param_scheduler.warmup_epochs=0"],
    },
}  # fmt: skip
ALWAYS = ["default_hooks.checkpoint.every_steps=1", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0",
          "train_dataloader.persistent_workers=false", "val_dataloader.persistent_workers=false"]  # fmt: skip
MARKS = ("<!-- kills -->", "<!-- end of kills -->")
PARTS = ("state_dict", "optimizer", "schedules", "random", "ema_state_dict")
TIMES = {"seconds", "data_time", "step_time", "per_second", "started", "command", "time"}


def prepare(folder: Path) -> None:
    """Make the data of all kinds, once."""
    for words in (
        ["tools/data/make_actions.py", "demo_out/actions8", "--train", "24", "--val", "8", "--test", "8"],
        ["tools/data/make_clouds.py", "demo_out/clouds", "--scale", "0.05"],
    ):
        done = run_to_end([str(ROOT / words[0]), *words[1:]], folder)
        if done:
            print(f"{' '.join(words)}: {done}", file=sys.stderr)


def environment(**more: str) -> dict[str, str]:
    """One thread, this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def run_to_end(words: list[str], folder: Path) -> str:
    """Run a Python script; returns its last line of errors where it fails."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1] if done.returncode else ""


class Run:
    """The processes of one training run in a group of their own."""

    def __init__(self, kind: str, work: str, folder: Path, resume: bool = False):
        spec = KINDS[kind]
        world = spec.get("processes", 1)
        words = [sys.executable, str(ROOT / "tools/train.py"), str(ROOT / spec["config"]), "--work-dir", work]
        words += ["--resume"] * resume + ["--launcher", "pytorch"] * (world > 1)
        words += ["--cfg-options", *ALWAYS, *spec["options"]]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.processes = []
        for rank in range(world):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_PORT": port,
                     "MASTER_ADDR": "127.0.0.1"} if world > 1 else {}  # fmt: skip
            self.processes.append(
                subprocess.Popen(words, cwd=folder, env=environment(**ranks), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True, start_new_session=True)
            )  # fmt: skip

    def kill(self) -> None:
        """Kill all processes and what they started."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.end()

    def end(self) -> list[tuple[int, str]]:
        """Wait; returns status and last line of errors of each process."""
        said = [p.communicate()[1].strip().splitlines() for p in self.processes]
        return [(p.returncode, (lines or [""])[-1]) for p, lines in zip(self.processes, said, strict=True)]


def without_times(node: Any) -> Any:
    """A report without what depends on the clock."""
    if isinstance(node, dict):
        return {k: without_times(v) for k, v in node.items() if k not in TIMES}
    return [without_times(v) for v in node] if isinstance(node, list) else node


def differences(whole: Path, other: Path) -> list[str]:
    """Names of what differs between two finished runs."""
    one, two = (read_torch(folder / "last.pth") for folder in (whole, other))
    parts = [
        k
        for k in ("state_dict", "optimizer", "schedules", "random", "ema_state_dict")
        if not same(one.get(k), two.get(k))
    ]
    reports = [without_times(json.loads((folder / "report.json").read_text())) for folder in (whole, other)]
    parts += [f"report.{k}" for k in reports[0] if reports[0][k] != reports[1].get(k)]
    best = [read_torch(f / "best.pth")["state_dict"] if (f / "best.pth").exists() else None for f in (whole, other)]
    if not same(*best):
        parts.append("best.pth")
    return parts


def same(one: Any, two: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(v, two[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return one == two


def try_once(kind: str, folder: Path, whole: Path, seconds: float, rng: random.Random) -> list[str]:
    """Kill a run once or twice, resume it, compare; returns what differs."""
    work = folder / "killed"
    shutil.rmtree(work, ignore_errors=True)
    for attempt in range(1 + (rng.random() < 0.25)):
        run = Run(kind, "killed", folder, resume=attempt > 0)
        time.sleep(rng.uniform(0.15, 1.0) * seconds)
        run.kill()
    for code, said in Run(kind, "killed", folder, resume=True).end():
        if code:
            return [f"status {code}: {said}"]
    left = [str(p.relative_to(work)) for p in work.rglob("*.tmp")]
    return differences(whole, work) + ([] if len(left) <= 2 else [f"left over: {left[:3]}"])


def main() -> int:
    """Run the campaign; returns 1 where a resumed run differs."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=100)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    p.add_argument("--folder", type=Path, default=Path("work_dirs/faults"))
    p.add_argument("--table", type=Path, help="write the table of this campaign into a page, between its marks")
    args = p.parse_args()
    folder, rng = args.folder.resolve(), random.Random(args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    wholes: dict[str, float] = {}
    counts: dict[str, Counter] = {kind: Counter() for kind in args.kinds}
    for number in range(args.kills):
        kind = args.kinds[number % len(args.kinds)]
        whole = folder / f"whole_{list(KINDS).index(kind)}"
        if kind not in wholes:
            shutil.rmtree(whole, ignore_errors=True)
            start = time.perf_counter()
            said = [end for end in Run(kind, whole.name, folder).end() if end[0]]
            wholes[kind] = time.perf_counter() - start
            if said:
                print(f"{kind}: the whole run ends with {said}")
                return 1
        differ = try_once(kind, folder, whole, wholes[kind], rng)
        counts[kind].update(kills=1, equal=not differ)
        print(f"{number + 1:4d} {kind:20s} {differ or 'equal'}", flush=True)
    text = table(counts, args.seed)
    print(text)
    if args.table:
        before, _, rest = args.table.read_text().partition(MARKS[0])
        args.table.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    return int(any(count["equal"] < count["kills"] for count in counts.values()))


def table(counts: dict[str, Counter], seed: int) -> str:
    """The counts of a campaign as Markdown."""
    rows = [f"| {kind} | {c['kills']} | {c['equal']} |" for kind, c in counts.items()]
    total = sum(counts.values(), Counter())
    rows.append(f"| all (seed {seed}) | {total['kills']} | {total['equal']} |")
    return "\n".join(["| run | killed and resumed | equal bit for bit |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
