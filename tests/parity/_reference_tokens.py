"""VPT, VQT, NOAH and KAdaptation from their formulas in float64; official keys."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity import _reference_vit as vit
from tests.parity.core import Case

TOP = "enc.transformer."


def vpt_shapes(a: dict[str, Any]) -> r.Shapes:
    """Prompts, maybe of another width."""
    state, deep, project = vit.jeonsworld(vit.vit_shapes(a)), a["prompt"]["DEEP"], a["prompt"]["PROJECT"]
    width = project if project > 0 else a["dim"]
    state[f"{TOP}prompt_embeddings"] = [1, a["prompt"]["NUM_TOKENS"], width]
    if deep:
        state[f"{TOP}deep_prompt_embeddings"] = [a["depth"] - 1, a["prompt"]["NUM_TOKENS"], width]
    return state | (r.affine(f"{TOP}prompt_proj", a["dim"], width) if project > 0 else {})


def vpt(case: Case) -> Any:
    """[class, prompts, patches]; deep prompts replace those of the block before."""
    a, own = case.arch, r.doubled(case.state())
    s, count = vit.from_jeonsworld(own), a["prompt"]["NUM_TOKENS"]
    project = lambda p: r.linear(own, f"{TOP}prompt_proj", p) if a["prompt"]["PROJECT"] > 0 else p  # noqa: E731

    def before(i: int, x: Tensor) -> Tensor:
        if i and not a["prompt"]["DEEP"]:
            return x
        p = own[f"{TOP}prompt_embeddings"][0] if i == 0 else own[f"{TOP}deep_prompt_embeddings"][i - 1]
        return torch.cat([x[:, :1], project(p).expand(len(x), -1, -1), x[:, 1 + (count if i else 0) :]], 1)

    feature = vit.tower(s, a, r.given(case), before=before)
    arrays, losses = vit.results(case, own, feature, ("prompt",), "head.last_layer")
    return arrays | {"cls_feature": feature}, losses


def vqt_shapes(a: dict[str, Any]) -> r.Shapes:
    """Queries, coefficients where they are used or said to be there, and a head on all features."""
    h, d, n = a["h2t"], a["dim"], a["depth"]
    state, count = vit.jeonsworld(vit.vit_shapes(a)), h["NUM_QUERY_TOKENS"]
    state[f"{TOP}encoder.query_prompt_embeddings"] = [n, count, d]
    if h["WEIGHTED_SUM_FEATS"]:
        state["enc.combine_params"] = [n, count]
    one = h["POOLING_FEATS"] or h["WEIGHTED_SUM_FEATS"]
    width = d * (1 + n * (1 if one else count)) if "keep" not in a else len(a["keep"])
    return state | r.affine("head.last_layer", a["classes"], width)


def vqt(case: Case) -> Any:
    """Queries read every block and change nothing."""
    a, own = case.arch, r.doubled(case.state())
    s, h = vit.from_jeonsworld(own), a["h2t"]
    queries, outs = own[f"{TOP}encoder.query_prompt_embeddings"], []

    def before(i: int, x: Tensor) -> Tensor:
        at, q = f"blocks.{i}", queries[i].expand(len(x), -1, -1)
        both = torch.cat([q, x], 1)
        y = r.linear(s, f"{at}.attn.qkv", r.norm(s, f"{at}.norm1", both, 1e-6))
        n = q.shape[1]
        parts = [t[:, :n] if j == 0 else t[:, n:] for j, t in enumerate(y.chunk(3, -1))]
        q = q + r.linear(s, f"{at}.attn.proj", r.attention(*parts, a["heads"]))
        u = F.gelu(r.linear(s, f"{at}.mlp.fc1", r.norm(s, f"{at}.norm2", q, 1e-6)))
        q = q + r.linear(s, f"{at}.mlp.fc2", u)
        if h["POOLING_FEATS"]:
            outs.append(q.mean(1))
        elif h["WEIGHTED_SUM_FEATS"]:
            outs.append((own["enc.combine_params"][i][:, None] * q).sum(1))
        else:
            outs.append(q.flatten(1))
        return x

    feature = vit.tower(s, a, r.given(case), before=before)
    groups = [feature, *outs]
    if h["NORMALIZE_FEATS"]:
        groups = [g / g.norm(dim=-1, keepdim=True) for g in groups]
    features = torch.cat(groups, -1)[:, a.get("keep", slice(None))]
    words = ("query_prompt",) if h["POOLING_FEATS"] else ("query_prompt", "combine_params")
    arrays, losses = vit.results(case, own, features, words, "head.last_layer")
    return arrays | {"features": features}, losses


def noah_shapes(a: dict[str, Any]) -> r.Shapes:
    """The supernet."""
    state, d, big = vit.vit_shapes(a), a["dim"], a["supernet"]
    state["visual_prompt_token"] = [1, big["prompt"], d]
    if not a["IS_not_position_VPT"]:
        state["visual_prompt_token_pos_embed"] = [1, big["prompt"], d]
    for i in range(a["depth"]):
        at = f"blocks.{i}"
        state |= {f"{at}.visual_prompt_token": [1, big["prompt"], d]}
        state |= {f"{at}.attn.LoRA_a.weight": [big["lora"], d], f"{at}.attn.LoRA_b.weight": [3 * d, big["lora"]]}
        state |= r.affine(f"{at}.adapter.ln1", big["adapter"], d) | r.affine(f"{at}.adapter.ln2", d, big["adapter"])
    return state


def noah(case: Case) -> Any:
    """A subnet: leading rows and columns."""
    a, s = case.arch, r.doubled(case.state())
    prompts, ranks, widths = (a["sampled_config"][f"{k}_dim"] for k in ("visual_prompt", "lora", "adapter"))

    def before(i: int, x: Tensor) -> Tensor:
        if not prompts[i]:
            return x
        if i and prompts[i - 1]:
            x = x[:, : -prompts[i - 1]]
        own = s[f"blocks.{i}.visual_prompt_token"][:, : prompts[i]]
        return torch.cat([x, own.expand(len(x), -1, -1)], 1)

    def op(site: str, y: Tensor, x: Tensor) -> Tensor:
        i = int(site.split(".")[1]) if site.startswith("blocks.") else 0
        at = f"blocks.{i}"
        if site == f"{at}.attn.qkv" and ranks[i]:
            low, high = s[f"{at}.attn.LoRA_a.weight"][: ranks[i]], s[f"{at}.attn.LoRA_b.weight"][:, : ranks[i]]
            return y + x @ low.T @ high.T
        if site == f"{at}.mlp.fc2" and widths[i]:
            h = widths[i]
            u = r.quick_gelu(y @ s[f"{at}.adapter.ln1.weight"][:h].T + s[f"{at}.adapter.ln1.bias"][:h])
            return y + u @ s[f"{at}.adapter.ln2.weight"][:, :h].T + s[f"{at}.adapter.ln2.bias"]
        return y

    feature = vit.tower(s, a, r.given(case), op, before)
    arrays, losses = vit.results(case, s, feature, ("blocks_",))
    loss, own = losses["grad:"]
    own |= {k: v for k, v in s.items() if any(w in k for w in ("LoRA", "adapter", "visual_prompt_token"))}
    d = a["dim"]
    count = sum(prompts) * d + 4 * d * sum(ranks) + sum(2 * d * h + h + d for h in widths if h)
    count += prompts[0] * d  # the top-level tokens
    count += a["supernet"]["prompt"] * d if prompts[0] and not a["IS_not_position_VPT"] else 0
    return arrays | {"sampled_params": torch.tensor(count)}, {"grad:": (loss, own)}


def kadaptation_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """CLIP's image tower with Kronecker factors."""
    v, t, k = a["clip_visual"], a["phm_dim"], a["phm_rank"]
    d = v["width"]
    state = r.clip_shapes("", d, v["layers"], hidden, v["patch"], v["img"] // v["patch"], v["out"])
    for n in (1, 2):
        state |= {f"transformer.phm_rule{n}_left": [t, t, k], f"transformer.phm_rule{n}_right": [t, k, t]}
    for i in range(v["layers"]):
        at = f"transformer.resblocks.{i}.attn"
        for p in "qv":
            state |= {f"{at}.{p}_proj_adapter1_left": [t, d // t, k], f"{at}.{p}_proj_adapter1_right": [t, k, d // t]}
        state[f"{at}.b"] = [d]
    return state


def kadaptation(case: Case) -> Any:
    """H = sum_i A_i kron B_i of queries and values."""
    a, s, found = case.arch, r.doubled(case.state()), {}
    for i in range(a["clip_visual"]["layers"]):
        for n, p in ((1, "q"), (2, "v")):
            slow = [s[f"transformer.phm_rule{n}_{side}"] for side in ("left", "right")]
            fast = [s[f"transformer.resblocks.{i}.attn.{p}_proj_adapter1_{side}"] for side in ("left", "right")]
            terms = [
                np.kron((slow[0][j] @ slow[1][j]).detach(), (fast[0][j] @ fast[1][j]).detach())
                for j in range(a["phm_dim"])
            ]
            found[f"H_{'q' if p == 'q' else 'v_paper'}:layer{i}"] = torch.from_numpy(sum(terms))
    return found, {}
