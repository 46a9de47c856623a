"""CoOp, CoCoOp, DPLCLIP, MVLPT and DPT from their formulas in float64; official keys."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_clip import block, images, own_of, texts, unit
from tests.parity.core import Case

LEARNER = "prompt_learner."


def placed(emb: Tensor, ctx: Tensor, n: int, lengths: list[int], position: str) -> Tensor:
    """Rows of embeddings in which `ctx` (n, W) or (C, n, W) stands for the placeholders behind the first token."""
    rows, half = [], n // 2
    for i, (row, length) in enumerate(zip(emb, lengths, strict=True)):
        own = ctx if ctx.ndim == 2 else ctx[i]
        name, rest = row[1 + n : 1 + n + length], row[1 + n + length :]
        order = {"end": [own, name], "middle": [own[:half], name, own[half:]], "front": [name, own]}[position]
        rows.append(torch.cat([row[:1], *order, rest]))
    return torch.stack(rows)


def encoded(s: r.State, a: dict[str, Any], x: Tensor, ids: Tensor) -> Tensor:
    """Features (C, D) of embeddings (C, L, W); the last token is where the ids are largest."""
    x = x + s["positional_embedding"]
    for i in range(a["text_layers"]):
        x = block(s, f"transformer.resblocks.{i}", x, a["text_heads"], True, s.__getitem__)
    return r.norm(s, "ln_final", x)[torch.arange(len(ids)), ids.argmax(1)] @ s["text_projection"]


def cosines(s: r.State, image: Tensor, text: Tensor) -> Tensor:
    """Scaled."""
    return s["logit_scale"].exp() * unit(image) @ unit(text).T


def setting(case: Case) -> tuple[dict[str, Any], r.State, Tensor]:
    """Sizes, weights of the towers, images."""
    return case.arch, r.doubled(case.state()), r.given(case)


def coop(case: Case) -> Any:
    """Every variant."""
    a, s, x = setting(case)
    arrays, losses, image = {}, {}, images(s, a, x)
    for tag, v in case.json["variants"].items():
        ids, n = torch.tensor(v["tokens"]), v["n_ctx"]
        emb = s["token_embedding.weight"][ids]
        filled = v["ctx"].startswith("fill")
        own = own_of(case, {f"{LEARNER}ctx": v["ctx_shape"]})
        if not filled:
            own = {f"{LEARNER}ctx": emb[0, 1 : 1 + n].detach().requires_grad_()}
        rows = placed(emb, own[f"{LEARNER}ctx"], n, v["name_lens"], v["class_token_position"])
        text = encoded(s, a, rows, ids)
        logits = cosines(s, image, text)
        arrays |= {f"{tag}.logits": logits, f"{tag}.text_features": unit(text)}
        losses[f"grad:{tag}."] = r.cotangent(case, logits), own
        if not filled and (v["class_token_position"] == "end" or "zeroshot.logits" not in arrays):
            arrays["zeroshot.logits"] = cosines(s, image, texts(s, a, ids))
    return arrays, losses


def cocoop(case: Case) -> Any:
    """Every image shifts the context of its own prompts."""
    a, s, x = setting(case)
    ids, image = torch.tensor(case.json["inputs"]["tokens"]), unit(images(s, a, x))
    own, emb = {k: v for k, v in s.items() if k.startswith(LEARNER)}, s["token_embedding.weight"][ids]
    hidden = r.linear(own, f"{LEARNER}meta_net.linear1", image).relu()
    shift = r.linear(own, f"{LEARNER}meta_net.linear2", hidden)
    rows = []
    for feature, moved in zip(image, shift, strict=True):
        prompts = placed(emb, own[f"{LEARNER}ctx"] + moved, a["n_ctx"], [1] * len(ids), "end")
        rows.append(cosines(s, feature[None], encoded(s, a, prompts, ids)))
    logits = torch.cat(rows)
    loss = F.cross_entropy(logits, torch.tensor(case.json["inputs"]["label"]))
    found = {"logits": logits, "image_features": image, "meta_bias": shift, "train_loss": loss}
    return found, {"grad:": (r.cotangent(case, logits), own)}


def domain_text(s: r.State, own: r.State, a: dict[str, Any], feature: Tensor, ids: Tensor) -> Tensor:
    """Text features behind the prompt that a batch's features give."""
    u = r.linear(own, "network.input", feature).relu()
    for i in range(a["mlp_depth"] - 2):
        u = r.linear(own, f"network.hiddens.{i}", u).relu()
    ctx = r.linear(own, "network.output", u).mean(0).reshape(a["num_domain_tokens"], -1)
    emb = s["token_embedding.weight"][ids]
    return encoded(s, a, placed(emb, ctx, len(ctx), [1] * len(ids), "end"), ids)


def dplclip(case: Case) -> Any:
    """A batch's predictions, half of it, three updates on all domains at once."""
    a, s, x = setting(case)
    ids, image = torch.tensor(case.json["inputs"]["prompt_tokens"]), images(s, a, x).detach()
    own = {k: v for k, v in s.items() if k.startswith("network.")}
    logits = cosines(s, image, domain_text(s, own, a, image, ids))
    losses = {"grad:": (r.cotangent(case, logits), own)}
    first = image[: len(image) // 2]
    zero = cosines(s, image, texts(s, a, torch.tensor(case.json["inputs"]["zeroshot_tokens"]))).softmax(-1)
    found = {"predict_logits": logits, "zeroshot_probs": zero}
    found["predict_logits_first_half"] = cosines(s, first, domain_text(s, own, a, first, ids))
    shape, domains = case.json["inputs"]["image"], range(a["n_train_domains"])
    seen = []
    for d in domains:
        case.json["inputs"][f"train_image_{d}"] = shape
        seen.append(images(s, a, r.given(case, f"train_image_{d}")).detach())
    label = torch.cat([(torch.arange(shape[0]) + d) % a["n_classes"] for d in domains])
    now, speed, steps = dict(own), {k: torch.zeros_like(v) for k, v in own.items()}, []
    for _ in range(3):
        text = torch.cat([domain_text(s, now, a, f, ids) for f in seen])
        loss = F.cross_entropy(cosines(s, torch.cat(seen), text), label)
        steps.append(loss)
        grads = torch.autograd.grad(loss, list(now.values()))
        for (k, w), g in zip(list(now.items()), grads, strict=True):
            speed[k] = a["momentum"] * speed[k] + g + a.get("weight_decay", 0.0) * w.detach()
            now[k] = (w.detach() - a["lr"] * speed[k]).requires_grad_()
    found["train_losses"] = torch.stack(steps)
    found["predict_logits_after_3_steps"] = cosines(s, image, domain_text(s, now, a, image, ids))
    return found | {f"norm_after:{k}": w.norm() for k, w in now.items()}, losses


def prompted(s: r.State, a: dict[str, Any], x: Tensor, prompt_of: Callable[[int, Tensor], Tensor | None]) -> Tensor:
    """Image features; the prompts of a block stand last in it, and where it gives none the last ones stay."""
    x = r.clip_embed(s, x, "visual.")
    count = x.shape[1]
    for i in range(a["vision_layers"]):
        prompts = prompt_of(i, x[:, :count])
        if prompts is not None:
            x = torch.cat([x[:, :count], prompts.expand(len(x), -1, -1)], 1)
        x = block(s, f"visual.transformer.resblocks.{i}", x, a["vision_heads"], False, s.__getitem__)
    return r.norm(s, "visual.ln_post", x[:, 0]) @ s["visual.proj"]


def unified(own: r.State, dim: int, text: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
    """Per token: into the width of the network, through its block (a token sees itself alone), and back."""

    def through(x: Tensor, name: str) -> Tensor:
        at, blocks = f"{LEARNER}mvlpt_proj_ctx_{name}", f"{LEARNER}mvlpt_proj.resblocks.0"
        x = r.linear(own, f"{at}_pre", x) if f"{at}_pre.weight" in own else x
        v = r.norm(own, f"{blocks}.ln_1", x) @ own[f"{blocks}.attn.in_proj_weight"][2 * dim :].T
        x = x + r.linear(own, f"{blocks}.attn.out_proj", v + own[f"{blocks}.attn.in_proj_bias"][2 * dim :])
        x = x + r.clip_mlp(own, blocks, r.norm(own, f"{blocks}.ln_2", x))
        return r.linear(own, f"{at}_post", x) if f"{at}_post.weight" in own else x

    return through(text, "coop"), through(visual, "vpt")


def mvlpt_shapes(a: dict[str, Any], v: dict[str, Any], classes: int) -> r.Shapes:
    """What trains in a variant."""
    state: r.Shapes = {}
    width = v["vpt_project"] if v["vpt_project"] > 0 else a["vision_width"]
    if v["vpt_n_ctx"]:
        state[f"{LEARNER}vpt_embeddings"] = [1, v["vpt_n_ctx"], width]
        if v["vpt_deep"]:
            state[f"{LEARNER}vpt_embeddings_deep"] = [a["vision_layers"] - 1, v["vpt_n_ctx"], width]
        state |= r.affine(f"{LEARNER}vpt_proj", a["vision_width"], width) if v["vpt_project"] > 0 else {}
    if v["coop_n_ctx"]:
        state[f"{LEARNER}ctx"] = ([classes] if v["csc"] else []) + [v["coop_n_ctx"], a["text_width"]]
    if v["coop_n_ctx"] and v["vpt_n_ctx"] and v["project_method"] == "transformer":
        d, at = v["project_dim"], f"{LEARNER}mvlpt_proj.resblocks.0"
        state |= r.multihead(f"{at}.attn", d) | r.normed(f"{at}.ln_1", d) | r.normed(f"{at}.ln_2", d)
        state |= r.affine(f"{at}.mlp.c_fc", 4 * d, d) | r.affine(f"{at}.mlp.c_proj", d, 4 * d)
        for name, wide in (("vpt", width), ("coop", a["text_width"])):
            if wide != d:
                at = f"{LEARNER}mvlpt_proj_ctx_{name}"
                state |= r.affine(f"{at}_pre", d, wide) | r.affine(f"{at}_post", wide, d)
    return state


def mvlpt(case: Case) -> Any:
    """Every variant, as released: prompts do not see each other, other tasks' logits are 0."""
    a, s, x = setting(case)
    arrays, losses, tasks = {}, {}, case.json["inputs"]["tasks"]
    for tag, v in case.json["variants"].items():
        own, ids = own_of(case, v["trainable"]), torch.tensor(v["tokens"])
        ctx, first = own.get(f"{LEARNER}ctx"), own.get(f"{LEARNER}vpt_embeddings")
        deep = own.get(f"{LEARNER}vpt_embeddings_deep")
        visual = first if deep is None else torch.cat([first, deep])
        if f"{LEARNER}mvlpt_proj.resblocks.0.ln_1.weight" in own:
            ctx, visual = unified(own, v["project_dim"], ctx, visual)
        used = visual
        if f"{LEARNER}vpt_proj.weight" in own:
            used = r.linear(own, f"{LEARNER}vpt_proj", visual)
        give = lambda i, y, used=used: None if used is None or i >= len(used) else used[i]  # noqa: E731
        emb = s["token_embedding.weight"][ids]
        if ctx is not None:
            emb = placed(emb, ctx, v["coop_n_ctx"], v["name_lens"], v["class_token_position"])
        logits = cosines(s, prompted(s, a, x, give), encoded(s, a, emb, ids))
        sizes = list(tasks["sizes"].values())
        owner = torch.tensor([t for t, n in enumerate(sizes) for _ in range(n)])
        inside = owner[None] == torch.tensor(tasks["ids"])[:, None]
        found = {"logits": logits, "masked_logits": logits * inside, "coop_emb": ctx}
        found |= {"vpt_emb": visual if visual is None else visual[:1]}
        found |= {"vpt_emb_deep": visual[1:] if visual is not None and len(visual) > 1 else None}
        arrays |= {f"{tag}.{k}": t for k, t in found.items() if t is not None}
        losses[f"grad:{tag}."] = r.cotangent(case, logits), own
    return arrays, losses


EXTRACTOR = "image_encoder.transformer.extractor."


def dpt_shapes(a: dict[str, Any]) -> r.Shapes:
    """What trains: contexts, plain prompts of the lower blocks, class-aware ones of the upper."""
    d, v, plain = a["embed_dim"], a["vision_width"], a["bottom_limit"] - 1
    state: r.Shapes = {f"{LEARNER}ctx": [a["coop_n_ctx"], a["text_width"]]}
    state["image_encoder.transformer.ctx_learner.ctx"] = [plain, a["vpt_n_ctx"], v]
    state[f"{EXTRACTOR}ctx"] = [a["vision_layers"] - plain, a["cavpt_ctx_len"], v]
    for i in range(a["vision_layers"] - plain):
        state |= r.affine(f"{EXTRACTOR}meta_nets.{i}", v, d)
        widths = {"kmlp": a["attn_dim"], "qmlp": a["attn_dim"], "vmlp": v}
        state |= {f"{EXTRACTOR}attns.{i}.{k}.weight": [n, v] for k, n in widths.items()}
        state |= r.normed(f"{EXTRACTOR}lns.{i}", v) | r.normed(f"{EXTRACTOR}lns2.{i}", v)
        state[f"{EXTRACTOR}classfiers.{i}.weight"] = [a["n_classes"], v]
    return state


def dpt(case: Case) -> Any:
    """Three kinds of logits, losses of both phases and their gradients."""
    a, s, x = setting(case)
    i, label = case.json["inputs"], torch.tensor(case.json["inputs"]["label"])
    own = {k: v for k, v in s.items() if k.startswith((LEARNER, "image_encoder.")) and v.numel()}
    ids, n = torch.tensor(i["prompt_tokens"]), a["coop_n_ctx"]
    emb = s["token_embedding.weight"][ids]
    text = encoded(s, a, placed(emb, own[f"{LEARNER}ctx"], n, i["name_lens"], a["class_token_position"]), ids)
    plain, template = images(s, a, x), texts(s, a, torch.tensor(i["template_tokens"]))
    indices = cosines(s, plain, template).argsort(1, descending=True)[:, : min(a["cpn"], a["n_classes"])]
    asked, layers, lower = text[indices], [], a["bottom_limit"] - 1

    def prompt_of(k: int, tokens: Tensor) -> Tensor:
        if k < lower:
            return own["image_encoder.transformer.ctx_learner.ctx"][k]
        j = k - lower
        weight = {m: own[f"{EXTRACTOR}attns.{j}.{m}.weight"] for m in ("qmlp", "kmlp", "vmlp")}
        query = r.linear(own, f"{EXTRACTOR}meta_nets.{j}", asked)
        seen = torch.cat([tokens.detach(), own[f"{EXTRACTOR}ctx"][j].expand(len(tokens), -1, -1)], 1)
        score = (query @ weight["qmlp"].T) @ (seen @ weight["kmlp"].T).mT / a["attn_dim"] ** 0.5
        out = score.softmax(-1) @ seen @ weight["vmlp"].T
        layers.append(r.norm(own, f"{EXTRACTOR}lns.{j}", out) @ own[f"{EXTRACTOR}classfiers.{j}.weight"].T)
        return r.norm(own, f"{EXTRACTOR}lns2.{j}", out + query)

    image = prompted(s, a, x, prompt_of)
    logits, first, second = cosines(s, image, text), cosines(s, plain, text), cosines(s, image, template)
    blocks = []
    for given in layers:
        terms = [
            F.cross_entropy(given[b, slot][None], label[b : b + 1])
            for b in range(len(label))
            for slot in range(indices.shape[1])
            if indices[b, slot] == label[b]
        ]
        blocks.append(torch.stack(terms).mean() if terms else torch.zeros((), dtype=torch.double))
    extra, ce = a["alpha"] * torch.stack(blocks).mean(), lambda z: F.cross_entropy(z, label)
    losses = {"loss_warmup": ce(first) + ce(second) + 0.1 * ce(logits) + extra, "loss_main": ce(logits) + extra}
    found = {"logits": logits, "logits_text_only": first, "logits_image_only": second, "indices": indices}
    found |= {f"layer_logits.{j}": given.transpose(0, 1) for j, given in enumerate(layers)}
    found |= losses | {"zeroshot_text_features": unit(template)}
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True, retain_graph=True)
        found |= {
            f"grad_{name}:{k}": torch.zeros(()) if g is None else g.norm() for k, g in zip(own, grads, strict=True)
        }
    return found, {"grad:": (r.cotangent(case, logits), own)}
