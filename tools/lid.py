"""Find the modules that KAdaptation should adapt: python tools/lid.py CONFIG.

Estimates the local intrinsic dimension of what every attention and MLP of the frozen tower gives for the config's
training images. The paper adapts the kind of module with the lowest dimension.
"""

import argparse
import sys

TARGETS = {"attn": '["q","v"]', "mlp": '["fc1","fc2"]'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="any config with a vision transformer and training images")
    p.add_argument("--images", type=int, default=512, help="training images looked at (default 512)")
    p.add_argument("--neighbors", type=int, default=20, help="of the estimate (default 20)")
    p.add_argument("--seed", type=int, default=0, help="of the choice of images")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return p.parse_args(argv)


def estimate(args: argparse.Namespace) -> list[tuple[str, float]]:
    """Modules of the config's tower and their dimensions, lowest first."""
    import numpy as np

    from xmodal.adapters.kadaptation import lowest_dimension
    from xmodal.data.collate import collate
    from xmodal.engine.config import load_config
    from xmodal.engine.sizes import dataset_for
    from xmodal.registry import MODELS, build

    cfg = load_config(args.config, args.cfg_options)
    model = build({**cfg.model, "adapters": []}, MODELS).eval()
    data = dataset_for(model, cfg.train_dataloader.dataset, args.seed)
    rows = np.random.default_rng(args.seed).permutation(len(data))[: args.images]
    batch = model.data_preprocessor(collate([data[0, int(i)] for i in rows]))
    return lowest_dimension(model.encoder, batch["image"], args.neighbors)


def report(found: list[tuple[str, float]]) -> str:
    """The modules, the mean of each kind, and the option that adapts the lowest kind."""
    lines = [f"{name:20} {value:6.2f}" for name, value in found]
    means = {kind: [v for n, v in found if n.endswith(kind)] for kind in TARGETS}
    mean = {kind: sum(values) / len(values) for kind, values in means.items()}
    lowest = min(mean, key=lambda kind: mean[kind])
    lines += [f"mean of {kind:12} {value:6.2f}" for kind, value in mean.items()]
    return "\n".join([*lines, f"lowest: {lowest}; kadaptation takes targets={TARGETS[lowest]}"])


def main(argv: list[str] | None = None) -> int:
    """Print the dimensions; returns the exit status."""
    args = parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: print(report(estimate(args))))


if __name__ == "__main__":
    sys.exit(main())
