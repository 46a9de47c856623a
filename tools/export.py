"""Write a trained model as a graph that runs without xmodal: python tools/export.py CONFIG CHECKPOINT model.onnx."""

import argparse
import sys

EPILOG = """examples:
  python tools/export.py configs/image/lora_tiny-clip_48_digits.py work_dirs/NAME/best.pth digits.pt2
  python tools/export.py configs/video/evl_tiny-clip_8u_actions8.py work_dirs/NAME/best.pth actions.onnx

The graph takes uint8 RGB frames at the model's size, (B, 3, S, S) or (B, T, 3, S, S), normalizes them and gives class
probabilities (B, K). Class names, sizes and how frames are chosen stand in the file (docs/export.md).
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("config", help="the config whose model the checkpoint belongs to")
    p.add_argument("checkpoint", help="last.pth or best.pth of a run")
    p.add_argument("target", help="the file to write: .pt2 (torch.export) or .onnx (needs the extra `onnx`)")
    p.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a probability (default 1e-4)")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return p


def job(args: argparse.Namespace) -> None:
    """Read, trace, write, run again, compare."""
    from pathlib import Path

    from xmodal.engine.checkpoint import load_weights
    from xmodal.engine.launch import prepare
    from xmodal.export import FORMATS, export, plain_values
    from xmodal.registry import MODELS, build

    if Path(args.target).suffix not in FORMATS:
        raise ValueError(f"{args.target}: a graph's file ends in {' or '.join(FORMATS)}")
    cfg = prepare(args.config, options=args.cfg_options)
    model = build(cfg.model, MODELS).eval()
    meta = load_weights(model, args.checkpoint)
    data = cfg.test_dataloader.dataset
    known = ("sampling", "interpolation", "spatial_views", "temporal_views", "resize", "crop")
    notes = {"config": Path(args.config).name, "test_data": plain_values({k: data[k] for k in known if k in data})}
    frames, size = data.get("num_frames"), data.get("size")
    found = export(model, args.target, frames, size, meta.get("classes") or (), notes, args.tolerance)
    print(f"largest difference of a probability, batches of 1, 2 and 5: {found.difference:.1e}")
    print(f"free axes: {', '.join(found.free)}")
    print(f"a batch of one: {found.eager_ms:.1f} ms in the model, {found.graph_ms:.1f} ms in the graph")
    print(f"{found.path.stat().st_size / 1e6:.1f} MB -> {found.path}")


def main(argv: list[str] | None = None) -> int:
    """Export; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
