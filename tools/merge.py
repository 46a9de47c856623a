"""Fold trained adapters into their tower: python tools/merge.py CONFIG CHECKPOINT MERGED.safetensors."""

import argparse
import sys

EPILOG = """examples:
  python tools/merge.py configs/image/lora_tiny-clip_48_digits.py work_dirs/lora_tiny-clip_48_digits/last.pth \\
      merged.safetensors
The result loads into timm.create_model(NAME, num_classes=K) with load_state_dict. LoRA, FacT, SSF and KAdaptation can
be folded; what acts on the residual stream cannot.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("config", help="the config whose model the checkpoint belongs to")
    p.add_argument("checkpoint", help="a checkpoint of tools/train.py")
    p.add_argument("target", help="the file to write (.safetensors, or anything else for torch.save)")
    p.add_argument("--images", type=int, default=4, help="random images the outputs are compared on (default 4)")
    p.add_argument("--tolerance", type=float, default=1e-4, help="largest error allowed (default 1e-4)")
    p.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as model.encoder.weights=PATH"
    )
    return p


def merge(args: argparse.Namespace) -> None:
    """Read, fold, compare, write."""
    import torch

    from xmodal.engine.checkpoint import load_weights
    from xmodal.engine.config import load_config
    from xmodal.merge import largest_error, merge_adapters
    from xmodal.registry import MODELS, build

    model = build(load_config(args.config, args.cfg_options).model, MODELS).eval()
    load_weights(model, args.checkpoint)
    merged = merge_adapters(model.encoder)
    size = model.encoder.image_size
    images = torch.randn(args.images, 3, size, size, generator=torch.Generator().manual_seed(0))
    error = largest_error(model.encoder, merged, images)
    print(f"largest error of the features of {args.images} random images: {error:.1e}")
    if not error <= args.tolerance:
        raise ValueError(f"the merged tower differs by {error:.1e}, more than --tolerance {args.tolerance:.0e}")
    state = plain_state(merged, model.head)
    write(state, args.target)
    print(f"{len(state)} tensors, {sum(t.numel() for t in state.values()):,} weights -> {args.target}")


def plain_state(encoder, head) -> dict:
    """Weights under timm's names, the classifier included where timm has a place for it."""
    from torch import nn

    state = encoder.library_state()
    if encoder.root is not None:
        return {k: v.contiguous() for k, v in state.items()}
    if isinstance(getattr(head, "fc", None), nn.Linear) and isinstance(head.norm, nn.Identity):
        fc = head.fc
        weight, bias = fc.weight, fc.bias
        if isinstance(encoder.proj, nn.Linear):  # timm's classifier stands on the feature before the projection
            weight = weight @ encoder.proj.weight
        state |= {"head.weight": weight, "head.bias": bias}
    return {k: v.detach().contiguous() for k, v in state.items()}


def write(state: dict, target: str) -> None:
    """Write safetensors, or a torch file."""
    if target.endswith(".safetensors"):
        import safetensors.torch

        safetensors.torch.save_file(state, target)
    else:
        import torch

        torch.save(state, target)


def main(argv: list[str] | None = None) -> int:
    """Merge; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: merge(args))


if __name__ == "__main__":
    sys.exit(main())
