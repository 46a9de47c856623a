"""Official checkpoints in, and back out: python tools/convert.py CONFIG OFFICIAL.pth OURS.pth."""

import argparse
import sys

EPILOG = """examples:
  python tools/convert.py configs/video/st-adapter_vit-b16-clip_8x16_k400.py checkpoint-11.pth st_adapter.pth
  python tools/convert.py configs/video/evl_vit-b16-clip_8x16_k400.py k400.pth evl.pth --classes k400_classes.txt
  python tools/convert.py CONFIG work_dirs/NAME/best.pth official.pth --export
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("config", help="the config whose model the checkpoint belongs to")
    p.add_argument("source", help="the checkpoint to read")
    p.add_argument("target", help="the file to write")
    p.add_argument("--export", action="store_true", help="from our format to the official one")
    p.add_argument("--method", help="st_adapter, evl, ...; default: told from the keys")
    p.add_argument("--classes", metavar="FILE", help="class names, one a line, in the order of the head's outputs")
    p.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as model.encoder.weights=PATH"
    )
    return p


def bring_in(args: argparse.Namespace) -> None:
    """Official file to ours, checked against the config's model."""
    from pathlib import Path

    import xmodal
    from xmodal.engine.checkpoint import FORMAT, load_own_state, write
    from xmodal.engine.config import load_config
    from xmodal.engine.stored_config import text_of
    from xmodal.official.names import find_converter, read_official
    from xmodal.registry import MODELS, build

    cfg = load_config(args.config, args.cfg_options)
    text = text_of(cfg)
    model = build(cfg.model, MODELS)
    if hasattr(model, "network"):  # of point clouds
        from pointcloud.checkpoints import official_state

        state, method = official_state(model, args.source)
    else:
        official = read_official(args.source)
        converter = find_converter(official, args.method)
        state, method = converter.to_ours(official), converter.name
        load_own_state(model, state, args.source)
    classes = Path(args.classes).read_text().split("\n") if args.classes else None
    meta = {
        "format": FORMAT, "version": xmodal.__version__, "step": 0, "epoch": 0, "validated": True, "seed": 0,
        "encoder": model.frozen_fingerprint(), "config": Path(args.config).stem, "source": Path(args.source).name,
        "classes": [c for c in classes if c] if classes else None, "method": method, "config_text": text,
    }  # fmt: skip
    write(args.target, {"meta": meta, "state_dict": state})
    print(f"{method}: {len(state)} tensors, {sum(t.numel() for t in state.values()):,} weights -> {args.target}")


def bring_out(args: argparse.Namespace) -> None:
    """Our file to the official layout."""
    import torch

    from pointcloud.checkpoints import official_export
    from xmodal.engine.checkpoint import read
    from xmodal.official.names import CONVERTERS

    state = read(args.source)["state_dict"]
    if cloud := official_export(state):
        torch.save(cloud[0], args.target)
        print(f"{cloud[1]} -> {args.target}")
        return
    for converter in CONVERTERS.values():
        if args.method in (None, converter.name):
            try:
                official = converter.file_of(state)
            except ValueError:
                continue
            torch.save(official, args.target)
            print(f"{converter.name}: {len(state)} tensors -> {args.target}")
            return
    raise ValueError(f"{args.source}: no official layout fits its keys; known are {sorted(CONVERTERS)}")


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run
    from xmodal.registry import load_catalog

    def job() -> None:
        load_catalog()
        bring_out(args) if args.export else bring_in(args)

    return run(job)


if __name__ == "__main__":
    sys.exit(main())
