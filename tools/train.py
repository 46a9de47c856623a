"""Train a config: python tools/train.py configs/video/st-adapter_vit-b16-clip_8x16_k400.py."""

import argparse
import sys


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Train a config. Checkpoints, report.json and logs go to the work directory."
    )
    p.add_argument("config", help="a config file")
    p.add_argument("--work-dir", help="default: work_dirs/<name of the config>")
    p.add_argument(
        "--resume", nargs="?", const="auto", metavar="PATH",
        help="go on from PATH, or from last.pth in the work directory when there is one",
    )  # fmt: skip
    p.add_argument(
        "--load-from", metavar="CHECKPOINT",
        help="start from the weights of another run or a release; a head for another number of classes starts anew",
    )  # fmt: skip
    p.add_argument("--new-head", action="store_true", help="with --load-from: start the head anew in any case")
    p.add_argument(
        "--allow-changes", action="store_true",
        help="with --resume: go on although the config differs in what changes the mathematics",
    )  # fmt: skip
    p.add_argument(
        "--replay", metavar="BAD_STEP", help="repeat the step of a bad_step.json under anomaly detection, and stop"
    )
    p.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision (fp16 needs a GPU)")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as train_cfg.max_epochs=3")
    p.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="pytorch under torchrun")
    p.add_argument(
        "--print-config", action="store_true",
        help="print the whole experiment as a config that can be loaded again, and stop",
    )  # fmt: skip
    p.add_argument("--dry-run", action="store_true", help="build everything, say what the run needs, and stop")
    p.add_argument("--max-memory", metavar="SIZE", help="with --dry-run: name settings that fit into, say, 24GB")
    p.add_argument("--log", nargs="+", default=[], metavar="NAME", help="also send curves to tensorboard or wandb")
    p.add_argument("--seed", type=int, help="of everything random; default: the config's")
    p.add_argument(
        "--no-report", action="store_true", help="do not write report.html at the end (tools/report.py does)"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import prepare, repeat, run, train

    def job() -> None:
        cfg = prepare(args.config, args.work_dir, args.cfg_options, args.seed, args.amp, args.launcher)
        if args.load_from:
            cfg.load_from = args.load_from
        if args.log:
            from xmodal.engine.logs import log_to

            log_to(cfg, args.log)
        if args.print_config:
            print(cfg.pretty_text)
            return
        if args.dry_run or args.max_memory:
            from xmodal.engine.dry_run import dry_run, parse_size

            limit = parse_size(args.max_memory) if args.max_memory else None
            print("\n".join(dry_run(cfg, limit)[1]))
            return
        if args.replay:
            repeat(cfg, args.replay)
            return
        runner = train(cfg, args.resume, args.allow_changes, args.new_head)
        if not args.no_report and runner.rank == 0:
            from xmodal.use.report import page_of

            page_of(runner.work_dir)

    return run(job, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
