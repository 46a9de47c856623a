"""Convert official EPCL and 3DETR checkpoints to this suite and back, without the frozen tower."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from xmodal.official.names import Converter, register_converter
from xmodal.torch_files import read_torch

EPCL_CLASSIFICATION = register_converter(
    Converter(
        "epcl-classification",
        [
            ("encoder.{x}", "tokenizer.encoder.{x}"),
            ("pos_embed.{x}", "epcl.pos_embed.{x}"),
            ("te_encoder.{x}", "epcl.te_encoder.{x}"),
            ("norm.{x}", "norm.{x}"),
            ("proj2emb.{x}", "proj2emb.{x}"),
            ("cls_head_finetune.{x}", "head.{x}"),
        ],
        holder="base_model",
    )
)
EPCL_DENSE = register_converter(
    Converter(
        "epcl-dense",
        [
            ("tokenizer.{x}", "tokenizer.{x}"),
            *((f"encoder.{part}.{{x}}", f"epcl.{part}.{{x}}") for part in ("pos_embed", "te_encoder")),
            ("upsamping.mlp_convs.0.{x}", "upsampling.0.{x}"),
            ("upsamping.mlp_bns.0.{x}", "upsampling.1.{x}"),
        ],
    )
)
# Inside a stage of the U-Net: official name, our name.
STAGE = (
    ("linear1", "linear1"),
    ("bn1", "bn1"),
    ("transformer2.0.channelMixMLPs01.0", "intra.score"),
    ("transformer2.0.channelMixMLPs01.2.bilinear", "intra.pair"),
    ("transformer2.0.linear_p.0", "intra.position.0"),
    ("transformer2.0.linear_p.1.1", "intra.position.1"),
    ("transformer2.0.linear_p.3", "intra.position.3"),
    ("transformer2.0.channelMixMLPs02.1", "intra.weight.0"),
    ("transformer2.0.channelMixMLPs02.2", "intra.weight.1"),
    ("transformer2.0.channelMixMLPs02.4", "intra.weight.3"),
    ("transformer2.0.channelMixMLPs02.5", "intra.weight.4"),
    ("transformer2.0.channelMixMLPs02.7", "intra.weight.6"),
    ("transformer2.0.channelMixMLPs03", "intra.value"),
    ("transformer2.1.linear.0", "inter.score"),
    ("transformer2.1.linear_x.0", "inter.value"),
    ("transformer2.1.linear_p.0", "inter.position.0"),
    ("transformer2.1.linear_p.1", "inter.position.1"),
    ("transformer2.1.linear_p.3", "inter.position.3"),
    ("bn2", "bn2"),
    ("linear3", "linear3"),
    ("bn3", "bn3"),
)


def flatten_conv(key: str, value: Tensor) -> Tensor:
    """A 1x1 convolution of the official network as our linear layer; `key` is ours."""
    return value.squeeze(-1) if ".intra.weight." in key and value.ndim == 3 else value


def unflatten_conv(key: str, value: Tensor) -> Tensor:
    """The inverse of `flatten_conv`; `key` is ours."""
    return value.unsqueeze(-1) if ".intra.weight." in key and value.ndim == 2 else value


EPCL_SEGMENTATION = register_converter(
    Converter(
        "epcl-segmentation",
        [
            *(
                (f"{part}{{i}}.0.{official}.{{x}}", f"{part}.{{i}}.0.{ours}.{{x}}")
                for part, official, ours in (
                    ("enc", "linear2", "linear"),
                    ("dec", "linear1", "linear1"),
                    ("dec", "linear2", "linear2"),
                    ("enc", "channel_shrinker", "score"),
                    ("dec", "channel_shrinker", "score"),
                )
            ),
            *(
                (f"{part}{{i}}.{{j}}.{official}.{{w}}", f"{part}.{{i}}.{{j}}.{ours}.{{w}}")
                for part in ("enc", "dec")
                for official, ours in STAGE
            ),
            *((f"{part}.{{x}}", f"{part}.{{x}}") for part in ("cls", "input_layer", "output_layer")),
            *((f"transformer.{part}.{{x}}", f"epcl.{part}.{{x}}") for part in ("pos_embed", "te_encoder")),
        ],
        holder="state_dict",
        values=(flatten_conv, unflatten_conv),
    )
)


def flatten_points(key: str, value: Tensor) -> Tensor:
    """3DETR's 2D convolutions over groups as our linear layers; `key` is ours."""
    return value.flatten(1) if ".mlp." in key and value.ndim == 4 else value


def unflatten_points(key: str, value: Tensor) -> Tensor:
    """The inverse of `flatten_points`; `key` is ours."""
    return value[..., None, None] if ".mlp." in key and value.ndim == 2 else value


SET_ABSTRACTIONS = (("pre_encoder", "backbone.pre_encoder"), ("encoder.interim_downsampling", "backbone.interim"))
SAME = ("encoder_to_decoder_projection", "pos_embedding", "query_projection", "mlp_heads")
# Written from the published source, not tried on a released file: none can be had where this was written.
DETR3D = register_converter(
    Converter(
        "3detr",
        [
            *(
                (f"{official}.mlp_module.layer{{i}}.{a}.{{w}}", f"{ours}.mlp.{{i}}.{b}.{{w}}")
                for official, ours in SET_ABSTRACTIONS
                for a, b in (("conv", 0), ("bn.bn", 1))
            ),
            ("encoder.layers.{x}", "backbone.layers.{x}"),
            *((f"{part}.{{x}}", f"decoder.{part}.{{x}}") for part in SAME),
            ("decoder.{x}", "decoder.decoder.{x}"),
        ],
        values=(flatten_points, unflatten_points),
        sign=r"query_projection\.",  # V-DETR's decoder on the same encoder has none
    )
)
UNET = (
    "embdding_layer", "downsampling_layer_2", "downsampling_layer_4", "downsampling_layer_8", "upsampling_layer_4",
    "upsampling_layer_2", "out_layer",
)  # fmt: skip
MIDDLE = "backbone.net.bottleneck.dense"
# The released two-stage head is another network than the decoder here, and the layer behind the frozen blocks is not in
# the files (it is drawn anew in every call there): both are left out.
EPCL_DETECTION = register_converter(
    Converter(
        "epcl-detection",
        [
            *((f"epcl.{part}.{{x}}", f"backbone.net.{part}.{{x}}") for part in UNET),
            ("epcl.pre_encoder.encoder.{x}", f"{MIDDLE}.tokenizer.encoder.{{x}}"),
            *((f"epcl.encoder.{part}.{{x}}", f"{MIDDLE}.epcl.{part}.{{x}}") for part in ("pos_embed", "te_encoder")),
        ],
        holder="model_state",
        ignored=r"(dense_head|roi_head)\..*|global_step",
        sign=r"epcl\.",
        unofficial=rf"decoder\..*|{re.escape(MIDDLE)}\.upsampling\..*",
    )
)
# What released files carry besides the trained parts: the frozen tower, and index tensors.
FROZEN = re.compile(r"(clip_vit\.|(epcl\.)?(transformer|encoder)\.(blocks\.|cls_token$))|.*te_tok$")

HOLDERS = ("base_model", "state_dict", "model", "model_state")


def trained_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The trained tensors of a released checkpoint, without the frozen tower.

    Args:
        content: what the file holds: a state dict, or a dict with one under an entry of `HOLDERS`.

    Returns:
        Official keys without `module.` and `model.` in front.

    Raises:
        ValueError: no state dict.
    """
    for holder in HOLDERS:
        if isinstance(content.get(holder), Mapping):
            content = content[holder]
            break
    if not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"found no state dict (expected tensors under {', '.join(HOLDERS)})")
    plain = {re.sub(r"^(module\.|model\.)", "", k): v for k, v in content.items()}
    return {k: v for k, v in plain.items() if not FROZEN.match(k)}


OFFICIAL = {c.name: c for c in (EPCL_CLASSIFICATION, EPCL_SEGMENTATION, EPCL_DENSE, DETR3D, EPCL_DETECTION)}


def converter_of(network: nn.Module) -> Converter:
    """The converter of a task network.

    Raises:
        ValueError: nothing official exists for it.
    """
    name = getattr(network, "official", "")
    if not name:
        on = type(getattr(network, "backbone", 0)).__name__
        raise ValueError(f"no official checkpoints exist for {type(network).__name__} on {on}")
    return OFFICIAL[name]


def official_state(model: nn.Module, path: str) -> tuple[dict[str, Tensor], str]:
    """A released checkpoint as the saved state of a `CloudModel`, and the name of its layout.

    Raises:
        ValueError: keys that do not fit.
    """
    network: Any = model.network
    converter = converter_of(network)
    load_official(network, path, converter)
    keys = set(model.saved_keys())  # type: ignore[operator]
    return {k: v for k, v in model.state_dict().items() if k in keys}, converter.name


def official_export(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], str] | None:
    """The saved state of a `CloudModel` in the released layout, and its name; None for other models."""
    plain = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    if not plain or len(plain) < len(state):
        return None
    for converter in OFFICIAL.values():
        try:
            return converter.file_of(plain), converter.name
        except ValueError:
            continue
    raise ValueError("no official layout fits these keys: adapters and EPCL's tokens on 3DETR's decoder have none")


def load_official(network: nn.Module, path: str, converter: Converter) -> None:
    """Put a released checkpoint into a task network whose frozen tower is in place.

    Args:
        network: `EPCLClassifier`, `EPCLSegmenter`, `EPCLDense` or `Detector`.
        path: of the file; opened without running what may be pickled in it.
        converter: one of this module.

    Raises:
        ValueError: keys that do not fit.
    """
    theirs = trained_state(read_torch(path))
    ours, own = converter.to_ours(theirs), network.state_dict()
    left = [key for key in theirs if re.fullmatch(converter.ignored, key)]
    if left:
        warnings.warn(f"{path}: {len(left)} weights have no place here and are left out: {left[0]}, ...", stacklevel=2)
    wrong = [
        f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}"
        for k, v in ours.items()
        if k in own and v.shape != own[k].shape
    ]
    if wrong:
        raise ValueError(f"{path} has other sizes than this network: {', '.join(wrong[:3])}")
    missing, unexpected = network.load_state_dict(ours, strict=False)
    known = re.compile(rf"(.*\.)?epcl\.encoder\..*|{converter.unofficial}")
    missing = [k for k in missing if not known.fullmatch(k)]
    if missing or unexpected:
        raise ValueError(f"{path} does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")
