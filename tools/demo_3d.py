"""Point clouds through the shipped frozen encoder, on data made here: python tools/demo_3d.py.

Classification, segmentation and detection, each with the pretrained frozen encoder, with random frozen blocks and with
everything trained from scratch. Every step is a command that a user would type; the commands are printed. Ends with a
table, pages to look at, and status 1 when the pretrained rows miss their floors.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = "demo_out/clouds"
TASKS = {
    "segmentation": ("epcl_tiny-clip_2k_rooms-seg", {"miou": 65.0}),
    "detection": ("epcl_tiny-clip_2k_rooms-det", {"map25": 70.0, "map50": 25.0}),
    "classification": ("epcl_tiny-clip_512_objects", {"top1": 90.0}),
}  # the longest first, so that both cores have work to the end
SAMPLES = {
    "classification": f"{DATA}/objects/chair/chair_0170.txt",
    "segmentation": f"{DATA}/rooms/trainval_fullarea/Area_5_room_0.npy",
    "detection": f"{DATA}/boxes_test/000000_pc.npz",
}
UNVALIDATED = ["val_dataloader=none", "val_cfg=none", "val_evaluator=none"]  # nothing is chosen here, so no validation
VARIANTS = {
    "pretrained, frozen": [],
    "random, frozen": ["model.encoder.weights=random"],
    "from scratch": ["model.encoder.weights=random", "model.freeze_encoder=false"],
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("demo_out/3d"), help="folder of runs and pages (demo_out/3d)")
    p.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK")
    p.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--jobs", type=int, default=max(1, min(2, os.cpu_count() or 1)), help="trainings at once")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="for all trainings")
    return p


def run_one(task: str, variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train and test one variant of one task."""
    from tools.demo_steps import run_config

    config, floors = TASKS[task]
    work = args.out / "runs" / f"{task}_{variant.replace(', ', '-').replace(' ', '-')}"
    options = [*VARIANTS[variant], *args.cfg_options]
    path, log = f"configs/pointcloud/{config}.py", work / "log.txt"
    found = run_config(path, work, args.seed, options, UNVALIDATED, log=log)
    print(f"    {task}, {variant}: " + ", ".join(f"{k} {found['test'][k]:.1f}" for k in floors), flush=True)
    return {"task": task, "variant": variant, "work": work, **found}


def table(rows: list[dict[str, Any]]) -> str:
    """Return what came out, as text."""
    from xmodal.evaluation.results import aligned

    lines = [("task", "encoder", "test", "floor", "trained weights", "minutes")]
    for row in rows:
        floors = TASKS[row["task"]][1]
        value = "  ".join(f"{k} {row['test'][k]:.1f}" for k in floors)
        floor = "  ".join(f"{v:g}" for v in floors.values()) if row["variant"] == "pretrained, frozen" else ""
        trained, minutes = f"{row['train']['trained_parameters']:,}", f"{row['minutes']:.1f}"
        lines.append((row["task"], row["variant"], value, floor, trained, minutes))
    return aligned(lines)


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Floors that the pretrained rows did not reach."""
    return [
        f"{row['task']}: {key} {row['test'][key]:.1f} is not above {floor:g}"
        for row in rows
        if row["variant"] == "pretrained, frozen"
        for key, floor in TASKS[row["task"]][1].items()
        if not row["test"][key] > floor
    ]


def pages(rows: list[dict[str, Any]], out: Path) -> list[str]:
    """Write a report for each task, and let the prediction tool make a page of a scene."""
    from tools.demo_steps import call, write_page

    made = []
    for task in dict.fromkeys(row["task"] for row in rows):
        folders = {row["variant"]: row["work"] for row in rows if row["task"] == task}
        made.append(str(write_page(folders, out / f"{task}.html", f"{task.capitalize()} of built-in clouds")))
    for row in rows:
        if row["variant"] != "pretrained, frozen":
            continue
        config, sample = f"configs/pointcloud/{TASKS[row['task']][0]}.py", SAMPLES[row["task"]]
        target = out / row["task"]
        words = ["tools/predict.py", config, str(row["work"] / "last.pth"), sample, "--out", str(target)]
        call(*words, log=out / "pages.log")
        made += [str(p) for p in target.glob("*.html")]
    return made


def main(argv: list[str] | None = None) -> int:
    """Make the data, train, test, tell."""
    args = parser().parse_args(argv)
    from tools.demo_steps import call

    args.out = args.out if args.out.is_absolute() else ROOT / args.out
    start = time.time()
    call("tools/data/make_clouds.py", DATA, "--seed", str(args.seed), log=args.out / "data.log")
    jobs = [(task, variant) for task in args.tasks for variant in args.variants]
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda job: run_one(*job, args), jobs))
    made = pages(rows, args.out)
    text = table(rows)
    (args.out / "table.txt").write_text(text + "\n")
    print("\n" + text)
    print("Data made here; the blocks were trained on drawn images. The trained tokenizer does most of the work.")
    print(f"\n{(time.time() - start) / 60:.1f} minutes in all. Open " + ", ".join(made))
    problems = missed(rows)
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
