"""Uni3D's encoder and losses."""

from typing import Any

import torch

from pointcloud import ops
from pointcloud.uni3d import Uni3D, from_released, uni3d_loss
from tests.parity.core import Case, builder, load_mapped, tagged
from xmodal.encoders.timm_parts import describe


def model_of(case: Case) -> Uni3D:
    """The product's encoder of a variant, with its weights."""
    from timm.models.eva import Eva

    a = case.arch
    image = Eva(img_size=a["eva_img_size"], patch_size=a["eva_patch"], **a["eva"])
    tower = {**describe(image, case.name), "norm_eps": a["ln_eps"]}
    sizes = dict(token_dim=a["pc_encoder_dim"], out_dim=a["embed_dim"], image_classes=a["eva"].get("num_classes", 1000))
    model = Uni3D(num_groups=a["num_group"], group_size=a["group_size"], **sizes, **tower).eval()
    load_mapped(model, from_released(case.state()))
    return model.requires_grad_()


def variant_case(case: Case, xyz: torch.Tensor, rgb: torch.Tensor) -> dict[str, Any]:
    """Tokens, feature, loss and gradients of one variant."""
    model = model_of(case)
    tokens, _ = model.tokenizer(xyz, rgb)
    feature = model(xyz, rgb)
    has = torch.tensor(case.json["inputs"]["use_image"]) > 0
    loss = uni3d_loss(feature, case.input("text"), case.input("image"), model.logit_scale, has)["loss"]
    official = released_gradients(model, loss, case)
    found = {
        "tokens": tokens[:, : case.expected[f"{case.arch['tag']}.tokens"].shape[1]],
        "pc_embed": feature,
        "loss": loss,
    }
    return {k: v.detach() for k, v in found.items()} | official


def released_gradients(model: Uni3D, loss: torch.Tensor, case: Case) -> dict[str, Any]:
    """Gradient norms under official names: gradients are put in the place of weights and renamed with them."""
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    with torch.no_grad():
        for (key, weight), grad in zip(named.items(), grads, strict=True):
            weight.copy_(torch.zeros_like(weight) if grad is None else grad)
            if key.endswith("attn.qkv.bias"):
                weight.chunk(3)[1].zero_()  # the keys' bias, which released models have not
    return {
        f"grad:{k}": float(v.float().norm())
        for k, v in model.library_state().items()
        if f"{case.arch['tag']}.grad:{k}" in case.expected
    }


@builder("uni3d")
def uni3d_case(case: Case) -> dict[str, Any]:
    """All variants."""
    xyz, rgb = case.input("xyz") * 0.4, case.input("rgb") * 0.2 + 0.5
    xyz[1] += 1.0
    xyz[1, 7] = torch.tensor([0.01, 0, 0.02])
    idx = ops.farthest_point_sample(xyz, case.arch["num_group"], skip_near_origin=True)
    found: dict[str, Any] = {"fps_idx": idx, "centers": ops.gather(xyz, idx)}
    for name, variant in case.variants():
        variant.arch["tag"] = name
        found |= tagged(name, variant_case(variant, xyz, rgb))
    return found
