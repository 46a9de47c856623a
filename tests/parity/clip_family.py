"""Prompt methods over CLIP: official keys onto the product's heads."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.parity.core import Case, builder, grad_norms, load_mapped
from tests.parity.fill import fill_array, fill_input
from xmodal.encoders.clip import CLIP
from xmodal.encoders.keys import from_clip_state
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.timm_parts import exact_ratio
from xmodal.encoders.vit import VisionTransformer
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.heads.dplclip import DPLCLIPHead
from xmodal.heads.dpt import DPTHead
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.heads.text_side import PromptIds, TextSide
from xmodal.official.prompts import NAMES as DASSL

OWN = ("prompt_learner.", "network.", "image_encoder.")


def clip_of(case: Case) -> CLIP:
    """The case's frozen CLIP."""
    a = case.arch
    shapes = {k: v for k, v in case.json["state"].items() if not k.startswith(OWN)}
    eps = a.get("layernorm_eps", 1e-5)
    ratios = [exact_ratio(*shapes[f"{tower}transformer.resblocks.0.mlp.c_fc.weight"]) for tower in ("visual.", "")]
    act = "quick_gelu" if "quick" in str(a.get("activation", "quick")).lower() else "gelu"
    visual = VisionTransformer(
        image_size=a["image_resolution"],
        patch_size=a["patch_size"],
        dim=a["vision_width"],
        depth=a["vision_layers"],
        num_heads=heads_of(a, "vision"),
        mlp_ratio=ratios[0],
        act=act,
        pre_norm=True,
        patch_bias=False,
        norm_eps=eps,
        out_dim=a["embed_dim"],
    )
    text = TextTransformer(
        a["vocab_size"],
        a["context_length"],
        a["text_width"],
        a["text_layers"],
        heads_of(a, "text"),
        a["embed_dim"],
        mlp_ratio=ratios[1],
        act=act,
        norm_eps=eps,
    )
    clip = CLIP(visual, text)
    load_mapped(clip, from_clip_state(case.state(shapes)))
    return clip.requires_grad_(False).eval()


def heads_of(arch: Mapping[str, Any], tower: str) -> int:
    """A number, or the width over what is said behind `//`, else over 64 (at least one)."""
    heads = arch.get(f"{tower}_heads")
    said = re.search(r"// *(\d+)", str(heads))
    return heads if isinstance(heads, int) else max(1, arch[f"{tower}_width"] // int(said[1] if said else 64))


def class_names(count: int) -> list[str]:
    """Names that no case uses."""
    return [f"class {i}" for i in range(count)]


def prompt_ids(tokens: Any, n_ctx: int, name_lens: Any = None) -> PromptIds:
    """The case's token ids."""
    ids = torch.tensor(tokens)
    return PromptIds(ids, n_ctx, list(name_lens) if name_lens is not None else [1] * len(ids))


def fill_own(module: nn.Module, case: Case, names: Mapping[str, str], shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Load filled tensors {official key: our key} into a head; {official key: its parameter}."""
    parameters = dict(module.named_parameters())
    assert set(names.values()) == set(parameters), set(names.values()) ^ set(parameters)
    for key, ours in names.items():
        parameters[ours].data.copy_(torch.from_numpy(np.array(fill_array(key, shapes[key], case.seed))))
    return {key: parameters[ours] for key, ours in names.items()}


def cotangent_loss(case: Case, logits: Tensor) -> Tensor:
    """sum(logits * cotangent)."""
    return (logits * case.cotangent(logits.shape)).sum()


@builder("coop")
def coop_case(case: Case) -> dict[str, Any]:
    """Logits, text features and gradients of every variant, and zero-shot CLIP."""
    clip, key, out = clip_of(case), "prompt_learner.ctx", {}
    feature = clip.encode_image(case.input("image"))
    for tag, v in case.json["variants"].items():
        from_words = not str(v.get("ctx", "fill_array")).startswith("fill")
        head = CoOpHead(
            clip.out_dim,
            class_names(len(v["tokens"])),
            clip,
            position=v["class_token_position"],
            class_specific=v["csc"],
            init_words="" if from_words else None,
            prompt_ids=prompt_ids(v["tokens"], v["n_ctx"], v["name_lens"]),
        )
        if not from_words:
            fill_own(head, case, {key: "ctx"}, {key: v["ctx_shape"]})
        assert list(head.ctx.shape) == list(v["ctx_shape"])
        logits = head(feature)
        out |= grad_norms(cotangent_loss(case, logits), {key: head.ctx}, f"grad:{tag}.")
        with torch.no_grad():
            text = nn.functional.normalize(head.text_features(), dim=-1)
        out |= {f"{tag}.logits": logits.detach().numpy(), f"{tag}.text_features": text.numpy()}
        if from_words and (v["class_token_position"] == "end" or "zeroshot.logits" not in out):
            side = TextSide(clip)
            plain = side.logits(feature, side.encode_ids(torch.tensor(v["tokens"])))
            out["zeroshot.logits"] = plain.numpy()
    return out


@builder("cocoop")
def cocoop_case(case: Case) -> dict[str, Any]:
    """Logits, image features, shifts, training loss and gradients."""
    clip, tokens = clip_of(case), case.json["inputs"]["tokens"]
    head = CoCoOpHead(clip.out_dim, class_names(len(tokens)), clip, prompt_ids=prompt_ids(tokens, case.arch["n_ctx"]))
    shapes = {k: v for k, v in case.json["state"].items() if k.startswith(OWN)}
    tensors = fill_own(head, case, {k: k.removeprefix("prompt_learner.") for k in shapes}, shapes)
    feature = clip.encode_image(case.input("image"))
    logits = head(feature)
    loss = head.loss(feature, torch.tensor(case.json["inputs"]["label"]))["loss"]
    out = {
        "logits": logits,
        "image_features": nn.functional.normalize(feature, dim=-1),
        "meta_bias": head.shift(feature),
        "train_loss": loss,
    }
    grads = grad_norms(cotangent_loss(case, logits), tensors)
    return {k: v.detach().numpy() for k, v in out.items()} | grads


@builder("dplclip")
def dplclip_case(case: Case) -> dict[str, Any]:
    """Predictions of a batch and of half of it, three updates of the released loss, zero-shot probabilities."""
    a, i, clip = case.arch, case.json["inputs"], clip_of(case)
    head = DPLCLIPHead(
        clip.out_dim,
        class_names(a["n_classes"]),
        clip,
        width=a["mlp_width"],
        depth=a["mlp_depth"],
        dropout=a["mlp_dropout"],
        official=True,
        prompt_ids=prompt_ids(i["prompt_tokens"], a["num_domain_tokens"]),
    ).eval()
    shapes = {k: v for k, v in case.json["state"].items() if k.startswith(OWN)}
    tensors = fill_own(head, case, {k: k for k in shapes}, shapes)
    feature = clip.encode_image(case.input("image"))
    logits = head(feature)
    grads = grad_norms(cotangent_loss(case, logits), tensors)
    half = feature[: len(feature) // 2]
    zero_shot = head.text.logits(feature, head.text.encode_ids(torch.tensor(i["zeroshot_tokens"]))).softmax(-1)
    out = {"predict_logits": logits, "predict_logits_first_half": head(half), "zeroshot_probs": zero_shot}
    out["train_losses"] = torch.stack(dpl_updates(case, clip, head))
    out[f"predict_logits_after_{len(out['train_losses'])}_steps"] = head(feature)
    out |= {f"norm_after:{k}": t.norm() for k, t in tensors.items()}
    return {k: v.detach().numpy() for k, v in out.items()} | grads


def dpl_updates(case: Case, clip: CLIP, head: DPLCLIPHead) -> list[Tensor]:
    """Losses of as many consecutive updates on the same minibatches as the case recorded."""
    a, shape = case.arch, case.json["inputs"]["image"]
    domains = range(a["n_train_domains"])
    images = [torch.from_numpy(fill_input(f"train_image_{d}", tuple(shape), case.seed)) for d in domains]
    features = [clip.encode_image(x) for x in images]
    labels = [(torch.arange(shape[0]) + d) % a["n_classes"] for d in domains]
    decay = a.get("weight_decay", 0.0)
    optimizer = torch.optim.SGD(head.parameters(), lr=a["lr"], momentum=a["momentum"], weight_decay=decay)
    losses = []
    for _ in range(len(case.expected.get("train_losses", range(3)))):
        loss = head.loss_over_domains(features, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@builder("mvlpt")
def mvlpt_case(case: Case) -> dict[str, Any]:
    """Logits, prompts as used, masked logits and gradients of every variant."""
    clip, out = clip_of(case), {}
    tasks = case.json["inputs"].get("tasks", {})
    tokens, grid = clip.visual.embed(case.input("image"))
    for tag, v in case.json["variants"].items():
        head = mvlpt_head(clip, v, tasks.get("sizes"))
        names = {k: mvlpt_name(k) for k, shape in v["trainable"].items() if 0 not in shape}
        tensors = fill_own(head, case, names, v["trainable"])
        logits = head(head.encode(clip.visual, tokens, grid))
        loss = cotangent_loss(case, logits)
        out |= grad_norms(loss, tensors, f"grad:{tag}.")
        text, visual = head.used_prompts()
        used = {"coop_emb": text, "vpt_emb": None if visual is None else visual[:1]}
        used |= {"vpt_emb_deep": visual[1:] if visual is not None and len(visual) > 1 else None, "logits": logits}
        if tasks:
            used["masked_logits"] = head.mask(logits, torch.tensor(tasks["ids"]))
        out |= {f"{tag}.{k}": t.detach().numpy() for k, t in used.items() if t is not None}
        weight = dict(head.named_parameters()).get("unified.block.attn.qkv.weight")
        if weight is not None:
            rows = torch.autograd.grad(loss, weight, retain_graph=True)[0][: 2 * weight.shape[1]]
            out[f"{tag}.in_proj_qk_rows_grad_norm"] = float(rows.norm())
    return out


def mvlpt_name(key: str) -> str:
    """Our name of an official key."""
    return DASSL["mvlpt"].ours(key)


def mvlpt_head(clip: CLIP, v: Mapping[str, Any], sizes: Any) -> MVLPTHead:
    """The head of one variant."""
    project = v.get("vpt_project", -1)
    return MVLPTHead(
        clip.out_dim,
        class_names(len(v["tokens"])),
        clip,
        n_ctx=v["coop_n_ctx"],
        n_visual=v["vpt_n_ctx"],
        deep=v["vpt_deep"],
        position=v["class_token_position"],
        class_specific=v["csc"],
        project_method=v["project_method"],
        project_dim=v["project_dim"],
        visual_project=project if project > 0 else None,
        truncate=v["cut_contextlen"],
        task_sizes=sizes,
        official=True,
        prompt_ids=prompt_ids(v["tokens"], v["coop_n_ctx"], v["name_lens"]),
    ).eval()


@builder("dpt_cavpt")
def dpt_case(case: Case) -> dict[str, Any]:
    """Three kinds of logits, selected classes, block logits, both losses, all gradients."""
    a, i, clip = case.arch, case.json["inputs"], clip_of(case)
    head = DPTHead(
        clip.out_dim,
        class_names(a["n_classes"]),
        clip,
        n_visual=a["vpt_n_ctx"],
        bottom=a["bottom_limit"],
        top_classes=a["cpn"],
        warmup_epochs=1,
        alpha=a["alpha"],
        n_tokens=a["cavpt_ctx_len"],
        attn_dim=a["attn_dim"],
        prompt_ids=prompt_ids(i["prompt_tokens"], a["coop_n_ctx"], i.get("name_lens")),
        position=a.get("class_token_position", "end"),
        template_ids=torch.tensor(i["template_tokens"]),
    ).eval()
    official = DASSL["dpt"].to_official(dict(head.named_parameters()))  # same tensors under official names
    shapes = {k: v for k, v in case.json["state"].items() if k.startswith(OWN) and 0 not in v}
    assert set(official) == set(shapes), set(official) ^ set(shapes)
    head.load_state_dict(DASSL["dpt"].to_ours(case.state(shapes)))
    feature = head.encode(clip.visual, *clip.visual.embed(case.input("image")))
    label = torch.tensor(i["label"])
    logits, losses = head(feature), {}
    for name, epoch in (("loss_warmup", 0), ("loss_main", 1)):
        head.set_epoch(epoch)
        losses[name] = head.loss(feature, label)["loss"]
    out = {"logits": logits, "indices": feature.selected, "zeroshot_text_features": head.template_features}
    out |= {"logits_text_only": head.text_logits(feature), "logits_image_only": head.image_logits(feature)}
    out |= {f"layer_logits.{n}": x.transpose(0, 1) for n, x in enumerate(feature.layer_logits)} | losses
    arrays: dict[str, Any] = {k: v.detach().numpy() for k, v in out.items()}
    for name, loss in {"grad": cotangent_loss(case, logits), **{f"grad_{k}": v for k, v in losses.items()}}.items():
        arrays |= dpt_grads(loss, head, f"{name}:")
    return arrays


def dpt_grads(loss: Tensor, head: DPTHead, prefix: str) -> dict[str, Any]:
    """Gradient norms under official names; tensors that the release stacks are put together again."""
    parameters = dict(head.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    filled = {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(parameters.items(), grads, strict=True)}
    return {f"{prefix}{k}": float(g.norm()) for k, g in DASSL["dpt"].to_official(filled).items()}
