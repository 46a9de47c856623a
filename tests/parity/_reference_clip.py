"""CLIP-LoRA, MaPLe and PromptSRC from their formulas in float64; official keys."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case
from tests.parity.fill import fill_state

Weights = Callable[[str], Tensor]  # the input projection of a block's attention, or its output's
PARTS = ("q_proj", "k_proj", "v_proj")


def clip_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """Both towers."""
    w, side = a["text_width"], a["image_resolution"] // a["patch_size"]
    sizes = a["vision_width"], a["vision_layers"], hidden, a["patch_size"], side, a["embed_dim"]
    state = r.clip_shapes("visual.", *sizes)
    state |= {"token_embedding.weight": [a["vocab_size"], w], "positional_embedding": [a["context_length"], w]}
    state |= {"text_projection": [w, a["embed_dim"]], "logit_scale": [], **r.normed("ln_final", w)}
    for i in range(a["text_layers"]):
        at = f"transformer.resblocks.{i}"
        state |= r.multihead(f"{at}.attn", w) | r.normed(f"{at}.ln_1", w) | r.normed(f"{at}.ln_2", w)
        state |= r.affine(f"{at}.mlp.c_fc", hidden, w) | r.affine(f"{at}.mlp.c_proj", w, hidden)
    return state


def block(s: r.State, at: str, x: Tensor, heads: int, causal: bool, weights: Weights) -> Tensor:
    """A block whose attention weights may be changed."""
    y = r.norm(s, f"{at}.ln_1", x)
    qkv = y @ weights(f"{at}.attn.in_proj_weight").T + s[f"{at}.attn.in_proj_bias"]
    outs, n = [], x.shape[1]
    later = torch.ones(n, n).triu(1).bool() if causal else torch.zeros(n, n).bool()
    for a, b, c in zip(*(t.chunk(heads, -1) for t in qkv.chunk(3, -1)), strict=True):
        score = (a @ b.mT / a.shape[-1] ** 0.5).masked_fill(later, float("-inf"))
        outs.append(score.softmax(-1) @ c)
    y = torch.cat(outs, -1) @ weights(f"{at}.attn.out_proj.weight").T + s[f"{at}.attn.out_proj.bias"]
    x = x + y
    return x + r.clip_mlp(s, at, r.norm(s, f"{at}.ln_2", x))


def texts(s: r.State, a: dict, ids: Tensor, prompts: Sequence[Tensor] = (), weights: Weights | None = None) -> Tensor:
    """Features (C, D) of token ids; prompts stand behind the first token, fresh at the blocks that have some."""
    x = s["token_embedding.weight"][ids]
    if prompts:
        x = torch.cat([x[:, :1], prompts[0].expand(len(x), -1, -1), x[:, 1 + len(prompts[0]) :]], 1)
    x = x + s["positional_embedding"]
    for i in range(a["text_layers"]):
        if 0 < i < len(prompts):
            x = torch.cat([x[:, :1], prompts[i].expand(len(x), -1, -1), x[:, 1 + len(prompts[i]) :]], 1)
        x = block(s, f"transformer.resblocks.{i}", x, a["text_heads"], True, weights or s.__getitem__)
    x = r.norm(s, "ln_final", x)
    return x[torch.arange(len(ids)), ids.argmax(1)] @ s["text_projection"]


def images(s: r.State, a: dict, x: Tensor, prompts: Sequence[Tensor] = (), weights: Weights | None = None) -> Tensor:
    """Features (B, D); prompts stand last, without positions."""
    x = r.patches(s["visual.conv1.weight"], x)
    x = torch.cat([s["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + s["visual.positional_embedding"]
    x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1) if prompts else x
    x = r.norm(s, "visual.ln_pre", x)
    for i in range(a["vision_layers"]):
        if 0 < i < len(prompts):
            x = torch.cat([x[:, : -len(prompts[i])], prompts[i].expand(len(x), -1, -1)], 1)
        at = f"visual.transformer.resblocks.{i}"
        x = block(s, at, x, a["vision_heads"], False, weights or s.__getitem__)
    return r.norm(s, "visual.ln_post", x[:, 0]) @ s["visual.proj"]


def unit(x: Tensor) -> Tensor:
    """Of length 1."""
    return x / x.norm(dim=-1, keepdim=True)


def own_of(case: Case, shapes: dict[str, Any]) -> r.State:
    """Trained tensors, filled by their keys."""
    return r.doubled({k: torch.as_tensor(v) for k, v in fill_state(shapes, case.seed).items()})


def seen(text: Tensor, image: Tensor, scale: Any) -> dict[str, Tensor]:
    """Logits and unit features."""
    return {"logits": scale * unit(image) @ unit(text).T, "text_features": unit(text), "image_features": unit(image)}


def clip_lora(case: Case) -> Any:
    """Every variant and its merged weights."""
    a, s, ids = case.arch, r.doubled(case.state()), torch.tensor(case.json["inputs"]["tokens"])
    arrays, losses = {}, {}
    for tag, v in case.json["variants"].items():
        own = own_of(case, v["trainable"])

        def updated(key: str, own: r.State = own, v: dict = v) -> Tensor:
            at, scale = key.rsplit(".attn.", 1)[0] + ".attn", v["alpha"] / v["r"] ** 0.5
            rows = s[key].chunk(3) if "in_proj" in key else [s[key]]
            names = PARTS if "in_proj" in key else ("proj",)
            add = lambda n: scale * own[f"{at}.{n}.w_lora_B"] @ own[f"{at}.{n}.w_lora_A"]  # noqa: E731
            return torch.cat([
                w + add(n) if f"{at}.{n}.w_lora_A" in own else w for w, n in zip(rows, names, strict=True)
            ])  # fmt: skip

        found = seen(
            texts(s, a, ids, weights=updated), images(s, a, r.given(case), weights=updated), a["logit_scale_used"]
        )
        at = ("" if v["encoder"] == "text" else "visual.") + f"transformer.resblocks.{min(v['blocks'])}.attn"
        merged = [*updated(f"{at}.in_proj_weight").chunk(3), updated(f"{at}.out_proj.weight")]
        found["merged_qkv_weight_first_block_norms"] = torch.stack([w.norm() for w in merged])
        arrays |= {f"{tag}.{k}": x for k, x in found.items()}
        losses[f"grad:{tag}."] = r.cotangent(case, found["logits"]), own
    return arrays, losses


def maple(case: Case) -> Any:
    """Every variant."""
    a, s, ids = case.arch, r.doubled(case.state()), torch.tensor(case.json["inputs"]["tokens"])
    arrays, losses = {}, {}
    for tag, v in case.json["variants"].items():
        own = own_of(case, v["trainable"])
        p = "prompt_learner."
        deep = [own[f"{p}compound_prompts_text.{i}"] for i in range(v["depth"] - 1)]
        names = [f"{p}proj", *(f"{p}compound_prompt_projections.{i}" for i in range(v["depth"] - 1))]
        prompts = [own[f"{p}ctx"], *deep]
        shown = [r.linear(own, name, x) for name, x in zip(names, prompts, strict=True)]
        found = seen(texts(s, a, ids, prompts), images(s, a, r.given(case), shown), s["logit_scale"].exp())
        losses[f"grad:{tag}."] = r.cotangent(case, found["logits"]), own
        found["train_loss"] = F.cross_entropy(found["logits"], torch.tensor(case.json["inputs"]["label"]))
        arrays |= {f"{tag}.{k}": x for k, x in found.items()}
    return arrays, losses


def promptsrc(case: Case) -> Any:
    """Features, all losses and their gradients."""
    a, i, s = case.arch, case.json["inputs"], r.doubled(case.state())
    own, ids, x = own_of(case, case.json["trainable"]), torch.tensor(i["tokens"]), r.given(case)
    deep = "_encoder.transformer.resblocks.{}.VPT_shallow"
    text = [own["prompt_learner.ctx"], *(own["text" + deep.format(n)] for n in range(1, a["depth_text"]))]
    shown = [own["image_encoder.VPT"], *(own["image" + deep.format(n)] for n in range(1, a["depth_vision"]))]
    scale = s["logit_scale"].exp()
    found = seen(texts(s, a, ids, text), images(s, a, x, shown), scale)
    g = unit(torch.stack([texts(s, a, t) for t in torch.tensor(i["template_tokens"])]).mean(0)).detach()
    h = unit(images(s, a, x)).detach()
    teacher = scale.detach() * h @ g.T
    p, q = found["logits"].log_softmax(-1), teacher.log_softmax(-1)
    parts = {
        "ce": F.cross_entropy(found["logits"], torch.tensor(i["label"])),
        "text": a["text_loss_weight"] * (found["text_features"] - g).abs().mean(),
        "image": a["image_loss_weight"] * (found["image_features"] - h).abs().mean(),
        "logits": (q.exp() * (q - p)).mean(),
    }
    total = sum(parts.values(), torch.zeros(()))
    arrays = {**found, **{f"loss_{k}": v for k, v in parts.items()}, "loss_total": total}
    arrays |= {"frozen_text_features": g, "frozen_image_features": h, "frozen_logits": teacher}
    return arrays, {"grad:": (r.cotangent(case, found["logits"]), own), "total_grad:": (total, own)}
