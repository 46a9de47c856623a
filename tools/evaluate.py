"""Run any evaluation that a config describes: python tools/evaluate.py CONFIG [arguments of its tool].

configs/fewshot     a grid of methods, shots and seeds    as tools/fewshot.py CONFIG
configs/elevater    ELEVATER's protocol                   as tools/elevater.py run DATA OUT --config CONFIG
configs/image       VTAB-1k, FGVC or few-shot lists       as tools/vtab.py CONFIG
configs/pointcloud  few-shot episodes of clouds           as tools/fewshot_clouds.py CONFIG
"""

import argparse
import importlib
import sys
from pathlib import Path


def command_of(path: str) -> tuple[str, list[str]]:
    """The tool that runs a config, and what its command line begins with."""
    from mmengine.config import Config

    from xmodal.evaluation.elevater import Elevater

    if not Path(path).is_file():
        raise ValueError(f"no config at {path}")
    cfg = Config.fromfile(path)
    if "model" in cfg:
        return ("vtab" if (cfg.get("about") or {}).get("benchmark") else "fewshot_clouds"), [path]
    if cfg.get("protocol", {}).get("type") is Elevater:
        return "elevater", ["run", "--config", path]
    return "fewshot", [path]


def main(argv: list[str] | None = None) -> int:
    """Call the tool of the config; returns its exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="a config of one of the folders above")
    args, rest = p.parse_known_args(argv)
    from xmodal.engine.launch import run

    def work() -> int:
        tool, words = command_of(args.config)
        return importlib.import_module(f"tools.{tool}").main([*words, *rest])

    return run(work)


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
