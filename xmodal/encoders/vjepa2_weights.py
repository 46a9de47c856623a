"""Load V-JEPA 2 and 2.1 from official checkpoints and from Hugging Face folders and files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.encoders.files import load_exactly, read_config, read_folder, seeded, unfilled
from xmodal.encoders.keys import State, under
from xmodal.encoders.vjepa2 import SIZES, VJEPA2
from xmodal.encoders.vjepa2_keys import from_official, from_transformers
from xmodal.registry import ENCODERS, did_you_mean
from xmodal.torch_files import read_weights

STATES = ("target_encoder", "ema_encoder", "encoder")  # of an official file, the first that is there is taken


@ENCODERS.register_module(name="vjepa2_encoder")
def vjepa2_encoder(
    weights: str,
    size: str | None = None,
    image_size: int = 256,
    version: str | None = None,
    num_heads: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
) -> VJEPA2:
    """Load V-JEPA 2 from a file or folder, or build it untrained.

    Args:
        weights: an official checkpoint (`vitl.pt`, `vjepa2_1_vitb_dist_vitG_384.pt`, ...), a Hugging Face folder with
            `config.json` and its weights or such a file, or `random`.
        size: `base`, `large`, `huge`, `giant` or `gigantic`; needed for `random` only, else read from the shapes.
        image_size: pixels of the images it is made for; 256 or 384.
        version: of `random`, `2.0` or `2.1`; files say it themselves.
        num_heads: attention heads where the widths are none of the released ones.
        drop_path: stochastic depth of the last block, in training only.
        seed: of random weights.

    Returns:
        The tower in evaluation mode.

    Raises:
        ValueError: an unknown size, a file of something else, weights that are missing or of another shape.
        FileNotFoundError: no such file.
    """
    if weights == "random":
        if size not in SIZES:
            raise ValueError(f"size={size!r}: {did_you_mean(str(size), SIZES)}")
        spec = dict(SIZES[size], version=version or "2.0", name=f"vjepa2/{size}/random-{seed}")
        return seeded(seed, lambda: VJEPA2(image_size=image_size, drop_path=drop_path, **spec)).eval()
    path = Path(weights)
    state, config, which = read(path)
    spec = shape_of(state, path.name) | dict(name=f"vjepa2/{path.stem}{which}", drop_path=drop_path)
    heads = num_heads or config.get("num_attention_heads") or heads_of(spec, path.name)
    spec["image_size"] = config.get("crop_size", image_size)
    return load_exactly(unfilled(lambda: VJEPA2(num_heads=heads, **spec)), state, str(path))


def read(path: Path) -> tuple[State, dict[str, Any], str]:
    """Return the weights of a checkpoint under the tower's names, the config beside them, and which state was taken.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a file without an encoder.
    """
    config: dict[str, Any] = {}
    loaded: Mapping[str, Any]
    if path.is_dir():
        config, loaded = read_config(path), read_folder(path)
    elif path.is_file():
        loaded = read_weights(path)
    else:
        raise FileNotFoundError(f"no weights at {str(path)!r}")
    which = next((name for name in STATES if isinstance(loaded.get(name), Mapping)), "")
    state = dict(loaded[which] if which else loaded)
    for prefix in ("module.", "backbone.", "vjepa2."):
        state = under(state, prefix) or state
    if any(key.startswith("encoder.layer.") for key in state):
        return from_transformers(under(state, "encoder.")), config, ""
    state.pop("pos_embed", None)
    if "patch_embed.proj.weight" not in state or "blocks.0.attn.qkv.weight" not in state:
        raise ValueError(f"{path.name} holds no encoder of V-JEPA 2; its first keys are {', '.join(list(state)[:3])}")
    return from_official(state), config, f".{which}" if which else ""


def shape_of(state: State, name: str) -> dict[str, Any]:
    """Read the arguments of a `VJEPA2` from the shapes of its weights.

    Raises:
        ValueError: a projection that is not one of tubelets.
    """
    patch = state["patch_embed.proj.weight"]
    if patch.ndim != 5:
        raise ValueError(f"{name} has patches of images: V-JEPA 2 reads tubelets, with weights (D, 3, 2, 16, 16)")
    dim = patch.shape[0]
    return dict(
        patch_size=patch.shape[-1],
        tubelet=patch.shape[2],
        dim=dim,
        depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        mlp_ratio=(state["blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / dim,
        version="2.1" if "image_token" in state else "2.0",
    )


def heads_of(spec: dict[str, Any], name: str) -> int:
    """Attention heads of a released size by its width.

    Raises:
        ValueError: a width that is none of those.
    """
    found = next((s["num_heads"] for s in SIZES.values() if s["dim"] == spec["dim"]), None)
    if found is None:
        raise ValueError(f"{name} has width {spec['dim']}, which no released size has: say num_heads")
    return found
