"""VQT's feature selection: python tools/select_features.py CONFIG CHECKPOINT KEEP.json --fraction 0.7.

Three steps: train with model.head.column_penalty=1e-4, select here, train again with model.reader.keep=KEEP.json.
"""

import argparse
import json
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="a config with the reader vqt and a linear head")
    p.add_argument("checkpoint", help="a checkpoint trained with model.head.column_penalty")
    p.add_argument("target", type=Path, help="the JSON file to write")
    p.add_argument("--fraction", type=float, default=0.7, help="share of the features kept (default 0.7)")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return p.parse_args(argv)


def select(args: argparse.Namespace) -> None:
    """Read the head, write the indices of its heaviest columns."""
    from xmodal.engine.checkpoint import load_weights
    from xmodal.engine.config import load_config
    from xmodal.registry import MODELS, build
    from xmodal.vqt import VisualQueries, most_used

    model = build(load_config(args.config, args.cfg_options).model, MODELS)
    if not isinstance(model.reader, VisualQueries) or model.reader.keep is not None:
        raise ValueError(f"{args.config} must read with vqt, and with all of its features")
    load_weights(model, args.checkpoint)
    weight = model.head.fc.weight.detach()
    keep = most_used(weight, args.fraction)
    share = float(weight[:, keep].pow(2).sum() / weight.pow(2).sum())
    args.target.write_text(json.dumps(keep.tolist()) + "\n")
    print(
        f"{len(keep):,} of {weight.shape[1]:,} features hold {100 * share:.1f} % of the head's weight -> {args.target}"
    )


def main(argv: list[str] | None = None) -> int:
    """Select; returns the exit status."""
    args = parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: select(args))


if __name__ == "__main__":
    sys.exit(main())
