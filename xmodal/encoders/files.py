"""Read weight files safely and fit them to a tower."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from xmodal.encoders.keys import State, under
from xmodal.encoders.patches import PositionResize, resize_positions
from xmodal.torch_files import read_safetensors, read_shards, read_torch, read_weights

# averaged weights first, as timm and DeiT take them
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "teacher", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "base_encoder.", "backbone.", "encoder.")
# what self-supervised checkpoints hold beside the tower
BESIDE = ("head.", "dino_head.", "ibot_head.", "predictor.", "momentum_encoder.", "projector.", "fc.", "classifier.")
FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

T = TypeVar("T")
Tower = TypeVar("Tower", bound=nn.Module)


def read_state(path: str | Path, torchscript: bool = False) -> State:
    """Read a state dict: safetensors, or a torch file with `weights_only`; wrappers and common prefixes come off.

    Args:
        path: `.safetensors`, `.pt`, `.pth`, `.bin`, `.ckpt`, or `....index.json` of several such files.
        torchscript: allow a TorchScript archive (OpenAI publishes CLIP as such). It is loaded as a program would be:
            only for files from a source you trust.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {str(path)!r}")
    if path.suffix == ".safetensors":
        return strip_prefixes(read_safetensors(path))
    if path.suffix == ".json":
        return strip_prefixes(read_shards(path))
    if path.suffix == ".npz":
        raise ValueError(f"{path.name} holds JAX weights: they are read by timm_encoder('vit_...', weights=...)")
    if is_torchscript(path):
        if not torchscript:
            raise ValueError(f"{path.name} is a TorchScript archive: read it with openai_encoder or openai_clip")
        return {k: v.detach() for k, v in torch.jit.load(path, map_location="cpu").state_dict().items()}
    return unwrap(read_torch(path), path.name)


def read_folder(folder: Path) -> State:
    """Read the weights of a Hugging Face folder, in one file or several, under their own names.

    Raises:
        FileNotFoundError: the folder has none.
    """
    path = next((folder / name for name in FOLDER if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has none of {', '.join(FOLDER)}, which a Hugging Face folder holds")
    if path.suffix == ".json":
        return read_shards(path)
    return read_weights(path)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config of a Hugging Face folder.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: a Hugging Face folder holds it beside its weights")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, expected an object with model_type")
    return config


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, a zip that holds code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def unwrap(loaded: object, name: str) -> State:
    """Return the tensors of a checkpoint's content.

    Raises:
        ValueError: there is no state dict in it.
    """
    for _ in WRAPPERS:
        holders = WRAPPERS if isinstance(loaded, Mapping) else ()
        inner = next((loaded[k] for k in holders if isinstance(loaded.get(k), Mapping)), None)  # type: ignore
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not any(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{name} holds no state dict, nor one under {', '.join(WRAPPERS)}")
    return strip_prefixes({k: v for k, v in loaded.items() if isinstance(v, Tensor)})


def strip_prefixes(state: State) -> State:
    """Take off prefixes that every key of the tower has; the heads beside it go where it has one."""
    tower = [key for key in state if not key.startswith(BESIDE)]
    found = next((p for p in PREFIXES if tower and all(key.startswith(p) for key in tower)), None)
    return strip_prefixes(under(state, found)) if found else state


def load_exactly(tower: Tower, state: Mapping[str, Tensor], source: str) -> Tower:
    """Load every weight of `tower`, in float32, positions resized to its own grid, and put it in evaluation mode.

    A tower on the meta device takes over the tensors of `state`; any other one copies them.

    Raises:
        ValueError: weights that are missing, left over or of another shape, with the first few names.
    """
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for prefix, owner in (("", tower), ("visual.", getattr(tower, "visual", None))):
        if f"{prefix}pos_embed" in state and hasattr(owner, "num_prefix"):
            fit_positions(state, prefix, owner)
    own = tower.state_dict()
    wrong = {
        "missing": [key for key in own if key not in state],
        "left over": [key for key in state if key not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    said = [f"{what}: {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}" for what, keys in wrong.items() if keys]
    if said:
        first = {key.partition(".")[0] for key in state}
        hint = f"; every name begins with {first.pop()!r}: save the weights without it" if len(first) == 1 else ""
        raise ValueError(
            f"{source} does not fit {getattr(tower, 'name', type(tower).__name__)}; {'; '.join(said)}{hint}"
        )
    tower.load_state_dict(state, assign=any(value.is_meta for value in own.values()))
    return tower.eval()


def fit_positions(state: State, prefix: str, tower: Any) -> None:
    """Resize `pos_embed` in `state` to the tower's grid (bicubic, antialiased, as timm and open_clip do)."""
    key, side = f"{prefix}pos_embed", tower.image_size // tower.patch_size
    skip = tower.num_prefix if tower.embed_prefix else 0
    side = getattr(tower, "resize", PositionResize()).grid or side
    if state[key].shape[1] != skip + side * side:
        state[key] = resize_positions(state[key], skip, side, side)


def seeded(seed: int, build: Callable[[], T]) -> T:
    """Build something with random weights of `seed`, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def missing_weights(what: str, hub: str, key: str, error: Exception) -> FileNotFoundError:
    """Build the error for weights that are neither cached nor reachable."""
    return FileNotFoundError(
        f"the weights of {what} are not in the local cache and could not be fetched ({type(error).__name__}). Where "
        f"there is a network, download {hub} from the Hugging Face hub and either keep its cache or give the file: "
        f"{key}='/path/to/file'. {key}='random' builds the tower untrained"
    )


def unfilled(build: Callable[[], T]) -> T:
    """Build something without memory for its weights, for `load_exactly` to fill."""
    with torch.device("meta"):
        return build()
