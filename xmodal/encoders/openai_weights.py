"""Load OpenAI's CLIP files: published TorchScript archives, state dicts or safetensors.

The layout says everything but the activation, which is QuickGELU, and the heads, which are 64 wide. A TorchScript
archive is a program: `torch.jit.load` reads it, for CLIP files and nothing else, so take it from a source you trust.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xmodal.encoders.clip import CLIP
from xmodal.encoders.files import load_exactly, read_state, seeded, unfilled
from xmodal.encoders.keys import State, from_clip_state, from_clip_visual_state, put_under, under
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.timm_parts import exact_ratio
from xmodal.encoders.tokenizer import ClipTokenizer
from xmodal.encoders.vit import CLIP_TOWER, VisionTransformer
from xmodal.registry import ENCODERS

SUPPORTED = "ViT-B/32, ViT-B/16, ViT-L/14, ViT-L/14@336px"
WIDEST = 1024  # of OpenAI's vision transformers; wider ones are others' and differ in heads and activation


@ENCODERS.register_module(name="openai_encoder")
def openai_encoder(
    path: str,
    weights: str = "pretrained",
    image_size: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
) -> VisionTransformer:
    """Load the image tower of one of OpenAI's CLIP files as a `VisionTransformer`.

    Args:
        path: `ViT-B-16.pt` as published, or its state dict, whole or of the image tower, as `.pt` or `.safetensors`.
        weights: `pretrained`, or `random` for an untrained tower of the same shape.
        image_size: pixels, when another resolution than the model's own is wanted; positions are resized.
        drop_path: stochastic depth of the last block, in training only.
        seed: of random weights.

    Returns:
        The tower in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds something else.
    """
    check_weights(weights)
    state = read_openai(path)
    spec = {**vision_spec(state, f"openai/{Path(path).stem}"), "drop_path": drop_path}
    spec["image_size"] = image_size or spec["image_size"]
    if weights == "random":
        return seeded(seed, lambda: VisionTransformer(**{**spec, "name": f"{spec['name']}/random-{seed}"})).eval()
    visual = from_clip_visual_state(under(state, "visual."))
    return load_exactly(unfilled(lambda: VisionTransformer(**spec)), visual, str(path))


@ENCODERS.register_module(name="openai_clip")
def openai_clip(
    path: str,
    weights: str = "pretrained",
    image_size: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
) -> CLIP:
    """Load both towers of one of OpenAI's CLIP files; arguments and errors are those of `openai_encoder`."""
    check_weights(weights)
    state = read_openai(path)
    if "token_embedding.weight" not in state:
        raise ValueError(f"{path} holds an image tower only: take openai_encoder")
    vision = {**vision_spec(state, f"openai/{Path(path).stem}"), "drop_path": drop_path}
    vision["image_size"] = image_size or vision["image_size"]
    text = text_spec(state, vision["name"])

    def build() -> CLIP:
        tokenizer = ClipTokenizer(text["context_length"])
        return CLIP(VisionTransformer(**vision), TextTransformer(**text), tokenizer)

    if weights == "random":
        vision["name"] = f"{vision['name']}/random-{seed}"
        return seeded(seed, build).eval()
    return load_exactly(unfilled(build), from_clip_state(state), str(path))


def check_weights(weights: str) -> None:
    """Refuse anything but `pretrained` and `random`."""
    if weights not in ("pretrained", "random"):
        raise ValueError(f"weights={weights!r}: choose pretrained or random; the file goes into `path`")


def read_openai(path: str) -> State:
    """Read the tensors of a file, the image tower's under `visual.`.

    Raises:
        FileNotFoundError: with what to download.
        ValueError: not one of OpenAI's vision transformers.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no weights at {str(path)!r}: download ViT-B-16.pt (or another of {SUPPORTED}) as OpenAI publishes it, or "
            f"open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai from the Hugging Face hub, and set "
            f"path='/path/to/file'"
        )
    state = read_state(path, torchscript=True)
    if "class_embedding" in state:
        state = put_under(state, "visual.")
    name = Path(path).name
    if any(key.startswith("visual.layer1.") for key in state):
        raise ValueError(f"{name} holds a ResNet tower of CLIP; supported are {SUPPORTED}")
    if any(key.startswith("vision_model.") for key in state):
        raise ValueError(f"{name} has the layout of the transformers package: take OpenAI's or open_clip's file of it")
    if "visual.class_embedding" not in state:
        raise ValueError(f"{name} holds no CLIP vision transformer; supported are {SUPPORTED}")
    width = state["visual.class_embedding"].numel()
    if width > WIDEST:
        raise ValueError(
            f"{name} has width {width}, and OpenAI published none wider than {WIDEST}: for LAION's and others' weights "
            f"take open_clip_encoder('ViT-H-14', pretrained={str(path)!r})"
        )
    return state


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the blocks of the tower under `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def vision_spec(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Arguments of the image tower that these weights belong to."""
    width, _, _, patch = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    return dict(
        CLIP_TOWER,
        image_size=side * patch,
        patch_size=patch,
        dim=width,
        depth=count_blocks(state, "visual.transformer.resblocks."),
        num_heads=width // 64,
        mlp_ratio=exact_ratio(len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]), width),
        act="quick_gelu",
        out_dim=state["visual.proj"].shape[1] if "visual.proj" in state else None,
        name=name,
    )


def text_spec(state: Mapping[str, Tensor], name: str) -> dict:
    """Arguments of the text tower that these weights belong to."""
    vocab, width = state["token_embedding.weight"].shape
    return dict(
        vocab_size=vocab,
        context_length=len(state["positional_embedding"]),
        dim=width,
        depth=count_blocks(state, "transformer.resblocks."),
        num_heads=width // 64,
        out_dim=state["text_projection"].shape[1],
        act="quick_gelu",
        norm_eps=1e-5,
        name=name,
    )
