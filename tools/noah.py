"""NOAH: train a supernet, search the sizes of a subnet under a limit of weights, retrain it from the start.

Each part goes on where it stopped: python tools/noah.py CONFIG again. WORK_DIR/noah.json holds subnet and result.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

EPILOG = """examples:
  python tools/noah.py configs/image/noah_vit-b16-in21k_224.py --task kitti
  python tools/noah.py configs/image/noah_tiny-clip_48_digits.py --dims 1 4 8 --depths 1 2 4 --limit 30000 \\
      --supernet-epochs 60 --supernet-lr 3e-3 --final train_dataloader.dataset.split=trainval \\
      val_dataloader.dataset.split=test
The supernet trains on the config's training data, the search looks at its validation data, and the subnet is retrained
with --final (of a task: on all labeled images, judged on the test images; last and best epoch are both given).
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("config", help="a config whose first adapter is noah")
    p.add_argument("--work-dir", type=Path, help="default: work_dirs/<name of the config>[/TASK]")
    p.add_argument("--benchmark", help="vtab (the config's), fgvc or fewshot")
    p.add_argument("--task", help="of the benchmark; without it the config's own data")
    p.add_argument("--root", type=Path, help="folder of the benchmark")
    p.add_argument("--shots", type=int, default=16, help="of the few-shot lists (default 16)")
    p.add_argument("--dims", type=int, nargs="+", default=[1, 5, 10], help="sizes of parts (default 1 5 10)")
    p.add_argument("--depths", type=int, nargs="+", default=[3, 6, 9, 12], help="blocks with a part (default 3 6 9 12)")
    p.add_argument("--limit", type=float, default=640_000, help="weights of the subnet at most (default 640000)")
    p.add_argument("--supernet-epochs", type=int, default=500, help="default 500; the paper's few-shot runs: 300")
    p.add_argument("--supernet-lr", type=float, default=5e-4, help="default 5e-4")
    p.add_argument("--search-epochs", type=int, default=15, help="default 15")
    p.add_argument("--population", type=int, default=50, help="default 50; half of it mutations, half crossovers")
    p.add_argument("--parents", type=int, default=10, help="default 10")
    p.add_argument("--until", choices=("supernet", "search", "retrain"), default="retrain", help="stop after this part")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="for supernet and retraining")
    p.add_argument("--final", nargs="+", default=[], metavar="KEY=VALUE", help="for retraining alone, such as its data")
    return p.parse_args(argv)


def data_of(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Options for the data of supernet and search, and for those of the retraining."""
    from xmodal.engine.config import load_config
    from xmodal.evaluation.image_benchmarks import task_of
    from xmodal.evaluation.image_tasks import data_options

    if args.task is None:
        return [], []
    benchmark = (load_config(args.config, args.cfg_options).get("about") or {}).get("benchmark")
    task = task_of(benchmark, args.task)
    both = (("train", "val"), ("trainval", "test"))
    first, last = (data_options(benchmark, task, s, args.root, args.shots, args.seed) for s in both)
    return first, last


def train_supernet(args: argparse.Namespace, options: list[str]) -> Any:
    """Train the supernet, from its last checkpoint if it has one; returns the runner, the weights of the end in it."""
    from xmodal.engine.launch import prepare, train

    sizes = [f"model.adapters.0.{kind}={max(args.dims)}" for kind in ("prompt", "lora", "adapter")]
    recipe = [f"optim_wrapper.optimizer.lr={args.supernet_lr}", f"train_cfg.max_epochs={args.supernet_epochs}"]
    recipe += [f"train_cfg.val_interval={args.supernet_epochs}"]
    cfg = prepare(args.config, str(args.work_dir / "supernet"), [*options, *sizes, *recipe], args.seed)
    hook = {"type": "xmodal.supernet.SampleSubnet", "dims": args.dims, "depths": args.depths}
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), hook]
    return train(cfg, resume="auto")


def search(args: argparse.Namespace, runner: Any) -> tuple[dict[str, list[int]], float]:
    """The best subnet under the limit and its accuracy on the validation data with the supernet's weights."""
    from xmodal.search import Search, SearchSpace
    from xmodal.supernet import accuracy_of

    encoder = runner.model.encoder
    space = SearchSpace(len(encoder.blocks), encoder.dim, args.dims, args.depths)
    half = args.population // 2
    job = Search(
        space,
        accuracy_of(runner.model, runner.val_dataloader),
        limit=args.limit,
        population=args.population,
        parents=args.parents,
        mutations=half,
        crossovers=half,
        epochs=args.search_epochs,
        seed=args.seed,
        state_file=args.work_dir / "search.json",
    )
    return job.run()


def retrain(args: argparse.Namespace, sizes: dict[str, list[int]], options: list[str]) -> dict[str, Any]:
    """Train the subnet from the pretrained tower; its report."""
    from xmodal.evaluation.image_tasks import train_once

    chosen = [f"model.adapters.0.{kind}={size}" for kind, size in sizes.items()]
    return train_once(args.config, args.work_dir / "final", [*options, *chosen], args.seed)


def work_through(args: argparse.Namespace) -> None:
    """Do what is not done yet, print and keep the result."""
    from xmodal.adapters.noah import subnet_params
    from xmodal.evaluation.image_tasks import last_and_best
    from xmodal.evaluation.results import write_result

    if args.benchmark:
        args.cfg_options = [f"benchmark={args.benchmark}", *args.cfg_options]
    args.work_dir = args.work_dir or Path("work_dirs") / Path(args.config).stem / (args.task or "")
    first, last = data_of(args)
    runner = train_supernet(args, [*first, *args.cfg_options])
    if args.until == "supernet":
        return
    sizes, found = search(args, runner)
    dim = runner.model.encoder.dim
    result = {"sizes": sizes, "weights": subnet_params(sizes, dim), "validation": round(100 * found, 2)}
    print(f"subnet of {result['weights']:,} weights, {result['validation']:.2f} % on the validation data: {sizes}")
    if args.until == "retrain":
        report = retrain(args, sizes, [*last, *args.cfg_options, *args.final])
        end, best, epoch = last_and_best(report)
        result |= {"last": end, "best": best, "best_epoch": epoch, "trained": report["trained_parameters"]}
        print(
            f"retrained: {end:.2f} % at the last epoch, {best:.2f} % at the best one ({epoch}, chosen on the same data)"
        )
    write_result(args.work_dir / "noah.json", result)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    args = parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: work_through(args))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
