"""Side4Video and DiST: official keys onto the product's readers."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.core import Case, builder, grad_norms, load_mapped
from tests.parity.video_models import clip_tower
from video.checkpoints import DIST, SIDE4VIDEO, SIDE4VIDEO_EVA
from video.dist import DiST
from video.side4video import Side4Video, to_rows
from xmodal.encoders.vit import VisionTransformer
from xmodal.heads.base import unit
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel
from xmodal.official.names import Converter


def clips_of(case: Case) -> Tensor:
    """The case's clips (B, T, 3, H, W) as the product's (B, 1, T, 3, H, W)."""
    return case.input("video")[:, None]


def trunk(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the frozen tower."""
    return {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.") and k not in own}


def load(model: nn.Module, names: Converter, own: Mapping[str, Tensor]) -> None:
    """Load a released file's weights, all of them."""
    ours = names.to_ours(own)
    assert set(ours) == model.saved_keys(), set(ours) ^ model.saved_keys()
    model.load_state_dict(ours, strict=False)


@builder("side4video")
def side4video_case(case: Case) -> dict[str, Any]:
    """The CLIP flavor."""
    a, state = case.arch, case.state()
    own = SIDE4VIDEO.plain(state)
    encoder = clip_tower(trunk(state, own), a["heads"], a["input_resolution"], a["patch_size"], a.get("ln_eps", 1e-5))
    return side_case(case, encoder, SIDE4VIDEO, own, {})


@builder("side4video_eva")
def side4video_eva_case(case: Case) -> dict[str, Any]:
    """The EVA flavor."""
    a, state = case.arch, case.state()
    own = SIDE4VIDEO_EVA.plain(state)
    base = {k: v for k, v in trunk(state, own).items() if not k.startswith("head.")}
    for i in range(a["layers"]):
        q, v = (base.pop(f"blocks.{i}.attn.{x}_bias") for x in "qv")
        base[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    hidden = len(base["blocks.0.mlp.fc1.bias"])
    encoder = VisionTransformer(
        a["input_resolution"], a["patch_size"], a["width"], a["layers"], a["heads"], (hidden + 0.5) / a["width"],
        post_norm=bool(a.get("postnorm", True)), norm_eps=a.get("trunk_ln_eps", 1e-6),
    )  # fmt: skip
    load_mapped(encoder, base)
    return side_case(case, encoder, SIDE4VIDEO_EVA, own, dict(post_norm=True, layers=a.get("side_layers")))


def side_case(case: Case, encoder: nn.Module, names: Converter, own: Mapping, options: Mapping) -> dict[str, Any]:
    """Features, logits and gradients, in evaluation and in training mode, and the statistics that moved."""
    a = case.arch
    model = TransferModel(
        encoder=encoder,
        reader=dict(type=Side4Video, dim=a["side_dim"], num_heads=a.get("side_heads"), **options),
        head=dict(type=ClassificationHead, num_classes=a["num_classes"], init_std=None),
    ).eval()
    load(model, names, own)
    clips, tensors = clips_of(case), dict(model.named_parameters())
    taps = model.listen(clips=clips)
    tokens, grid = model.embed(clips=clips)
    model.encoder.forward_blocks(tokens, grid, taps=taps)
    found: dict[str, Any] = {f"side{i}": to_rows(z).transpose(0, 1) for i, z in enumerate(model.reader.states(taps))}
    found |= {"features": model.features(clips=clips), "logits": model(mode="tensor", clips=clips)}
    named = {k: tensors[names.ours(k)] for k in own if names.ours(k) in tensors}
    logits = found["logits"]
    out = grad_norms((logits * case.cotangent(logits.shape)).sum(), named)
    found["train_logits"] = model.train()(mode="tensor", clips=clips)
    if "labels" in case.json:
        loss = F.cross_entropy(found["train_logits"], torch.tensor(case.json["labels"]))
        out |= grad_norms(loss, named, "traingrad:")
    buffers = dict(model.named_buffers())
    found |= {f"after:{k}": buffers[names.ours(k)] for k in own if "running" in k}
    return {k: v.detach().numpy() for k, v in found.items()} | out


@builder("dist")
def dist_case(case: Case) -> dict[str, Any]:
    """The feature of clips, the tower's features of sparse frames, cosines with text features, gradients."""
    a, state = case.arch, case.state()
    own = DIST.plain(state)
    base = trunk(state, own)
    encoder = clip_tower(
        base, a["heads"], a["input_resolution"], a["patch_size"], a.get("ln_eps", 1e-5), a["embed_dim"]
    )
    ratios = [a.get(k, d) for k, d in (("temporal_conv_mlp_ratio", 1), ("integration_mlp_ratio", 1),
                                       ("integration_temporal_mlp_ratio", 0.25))]  # fmt: skip
    model = TransferModel(
        encoder=encoder,
        reader=dict(type=DiST, num_frames=a["frames"], alpha=a["alpha"], layers=a["selected_layers"],
                    dim=a["integration_dim"], channels=a["temporal_dim"], num_heads=a["integration_heads"],
                    pooling_layers=a["ada_pooling_layers"], kernel=a["temporal_kernel_size"],
                    stem_kernel=a["t_patch_size"], ratios=ratios),
        head=nn.Identity(),
    ).eval()  # fmt: skip
    load(model, DIST, own)
    clips, tensors = clips_of(case), dict(model.named_parameters())
    feature = model.features(clips=clips)
    out = grad_norms((feature * case.cotangent(feature.shape)).sum(), {k: tensors[DIST.ours(k)] for k in own})
    taps = model.listen(clips=clips)
    tokens, grid = model.embed(clips=clips)
    images = model.encoder.pool(model.encoder.norm(model.encoder.forward_blocks(tokens, grid, taps=taps)))
    scale = torch.tensor(a["logit_scale_log"]).exp()
    found = {
        "video_feature": feature,
        "image_features": images,
        "mid_first": taps["post", a["selected_layers"][0]].transpose(0, 1),
    }
    found["logits"] = scale * unit(feature) @ unit(case.input("text_features")).T
    return {k: v.detach().numpy() for k, v in found.items()} | out
