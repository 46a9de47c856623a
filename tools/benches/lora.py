"""Training steps of LoRA: `peft` on a timm model, ours on the same weights, the floor, full fine-tuning.

Needs peft (`pip install -e .[bench]`). Both update the fused q, k, v projection with the same rank; before it measures,
the bench gives both the same factors and checks that outputs and gradients agree.
"""

import timm
import torch
import torch.nn.functional as F
from torch import nn

from tools.benches.measure import CLASSES, SIZES, Wanted, images_for, of_models
from xmodal.adapted import Adapted, adapt

RANK = 8
WANTED = {"lora": [Wanted(what, "ours", "peft", 1.0) for what in ("time", "kept", "peak")]}


def timm_model(args) -> nn.Module:
    """A timm ViT of a size, with weights that are all alike in every call."""
    torch.manual_seed(0)
    size = SIZES[args.size]
    names = dict(image_size="img_size", patch_size="patch_size", dim="embed_dim", depth="depth", num_heads="num_heads")
    options = {theirs: size[ours] for ours, theirs in names.items()}
    return timm.create_model("vit_base_patch16_224", num_classes=CLASSES, **options)


def ours(args) -> nn.Module:
    """Ours on a copy of the timm model."""
    model = adapt(timm_model(args), "lora", rank=RANK, targets=["qkv"])
    model.head.requires_grad_(True)
    return model.train()


def peft_model(args) -> nn.Module:
    """Return the timm model with peft's LoRA; the classifier trains too.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("the bench of LoRA compares with peft: pip install -e .[bench]") from error
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["qkv"], modules_to_save=["head"], lora_dropout=0.0)
    return get_peft_model(timm_model(args), config).train()


def full(args) -> nn.Module:
    """The timm model, all of it trained."""
    return timm_model(args).train()


def step(state):
    """One training step without the optimizer."""
    model, batch = state
    model.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(batch["image"]), batch["label"])
    loss.backward()
    return loss


def floor(state):
    """Frozen forward and the gradient of its input: what every method pays that trains the first block."""
    model, batch = state
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        tokens, grid = model.encoder.embed(batch["image"])
    tokens.requires_grad_(True)
    out = model.encoder.forward_blocks(tokens, grid, read="prefix")
    loss = F.cross_entropy(model.head(model.encoder.pool(model.encoder.norm(out, grid), grid)), batch["label"])
    loss.backward()
    return loss


def frozen(args) -> nn.Module:
    """Ours without LoRA."""
    model = Adapted(adapt(timm_model(args), "lora").use(None).encoder, nn.Linear(SIZES[args.size]["dim"], CLASSES))
    return model.train()


def check(args, data) -> None:
    """With the same factors, outputs and gradients agree.

    Raises:
        ValueError: they do not.
    """
    mine, theirs = ours(args), peft_model(args)
    live = {n: p for n, p in theirs.named_parameters() if ".lora_" in n}
    for i, block in enumerate(mine.encoder.blocks):
        update = block.attn.qkv.edits["lora"].parts["whole"]
        for name, letter in (("a", "A"), ("b", "B")):
            factor = next(p for n, p in live.items() if f"blocks.{i}.attn.qkv.lora_{letter}." in n)
            nn.init.normal_(factor, std=0.02)
            getattr(update, name).data.copy_(factor)
    apart = float((mine(data["image"]) - theirs(data["image"])).detach().abs().max())
    losses = [float(step((m, data)).detach()) for m in (mine, theirs)]
    mine_grad = mine.encoder.blocks[0].attn.qkv.edits["lora"].parts["whole"].a.grad
    their_grad = next(p.grad for n, p in live.items() if "blocks.0.attn.qkv.lora_A." in n)
    gradient = float((mine_grad - their_grad).norm() / their_grad.norm())
    if apart > 1e-3 or gradient > 1e-3:
        raise ValueError(f"ours and peft differ: outputs by {apart:.1e}, gradients by {gradient:.1e}, losses {losses}")
    print(f"same numbers: outputs within {apart:.1e}, gradients within {gradient:.1e}", flush=True)


def lora(args):
    """LoRA of rank 8 on the fused projection: peft, ours, the floor, full fine-tuning."""
    data = images_for(args)
    check(args, data)
    rows = {"peft": (step, peft_model), "ours": (step, ours), "floor: forward and input gradient": (floor, frozen),
            "full fine-tuning": (step, full)}  # fmt: skip
    return of_models(rows, args, data)
