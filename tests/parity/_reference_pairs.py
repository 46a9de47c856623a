"""UniCL and MS-CLIP(-S) from their formulas in float64; official keys."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_clip import unit
from tests.parity._reference_swin import stages, swin_shapes
from tests.parity.core import Case
from tests.parity.fill import fill_input

SMALL = 1e-12  # of the text towers' norms, and of all of MS-CLIP's
BLOCK = "visual.transformer.resblocks"


def text_shapes(at: str, a: dict[str, Any], hidden: int, layers: int) -> r.Shapes:
    """Blocks of a text tower."""
    d, state = a["text_width"], {}
    for i in range(layers):
        one = f"{at}resblocks.{i}"
        state |= r.multihead(f"{one}.attn", d) | r.normed(f"{one}.ln_1", d) | r.normed(f"{one}.ln_2", d)
        state |= r.affine(f"{one}.mlp.c_fc", hidden, d) | r.affine(f"{one}.mlp.c_proj", d, hidden)
    return state


def block(s: r.State, at: str, x: Tensor, heads: int, causal: bool, own: str = "") -> Tensor:
    """A block whose norms stand at `own` where its other weights are another tower's."""
    own, y = own or at, r.norm(s, f"{own or at}.ln_1", x, SMALL)
    qkv = y @ s[f"{at}.attn.in_proj_weight"].T + s[f"{at}.attn.in_proj_bias"]
    n, outs = x.shape[1], []
    later = torch.ones(n, n).triu(1).bool() if causal else torch.zeros(n, n).bool()
    for q, k, v in zip(*(t.chunk(heads, -1) for t in qkv.chunk(3, -1)), strict=True):
        outs.append((q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, float("-inf")).softmax(-1) @ v)
    x = x + r.linear(s, f"{at}.attn.out_proj", torch.cat(outs, -1))
    return x + r.clip_mlp(s, at, r.norm(s, f"{own}.ln_2", x, SMALL))


def unicl_shapes(a: dict[str, Any], hidden: int) -> r.Shapes:
    """Swin and a text tower."""
    swin = dict(dim=a["swin_dim"], patch=a["patch_size"], depths=a["depths"], num_heads=a["heads"], ratio=2,
                window_size=a["window"])  # fmt: skip
    state = {f"image_encoder.{k}": v for k, v in swin_shapes(swin).items()}
    state |= text_shapes("text_encoder.", a, hidden, a["text_layers"])
    state |= {"text_encoder.positional_embedding": [a["context_length"], a["text_width"]]}
    state |= {"text_encoder.token_embedding.weight": [a["vocab_size"], a["text_width"]]}
    state |= r.normed("text_encoder.ln_final", a["text_width"]) | {"logit_scale": []}
    last = a["swin_dim"] * 2 ** (len(a["depths"]) - 1)
    return state | {"text_projection": [a["text_width"], a["dim"]], "image_projection": [last, a["dim"]]}


def pair_loss(u: Tensor, v: Tensor, tau: Tensor, labels: list[int]) -> dict[str, Tensor]:
    """Pairs of one label above 0 belong together; a pair of label 0 belongs to itself alone."""
    n, score = len(labels), tau.exp() * u @ v.T
    rows = [[k for k in range(n) if k == i or labels[i] == labels[k] > 0] for i in range(n)]
    one = torch.stack([-score.log_softmax(1)[i, own].mean() for i, own in enumerate(rows)]).mean()
    two = torch.stack([-score.T.log_softmax(1)[i, own].mean() for i, own in enumerate(rows)]).mean()
    return {"i2t": one, "t2i": two, "loss": (one + two) / 2}


def unicl(case: Case) -> Any:
    """Towers, targets, losses and gradients."""
    a, s, labels = case.arch, r.doubled(case.state()), case.json["inputs"]["labels"]
    swin = dict(dim=a["swin_dim"], patch=a["patch_size"], depths=a["depths"], num_heads=a["heads"],
                window_size=a["window"])  # fmt: skip
    own = {k.removeprefix("image_encoder."): v for k, v in s.items()}
    x = stages(own, swin, r.given(case), lambda at, site, x, u: x, True)[-1]
    u = unit(r.norm(own, "norm", x).mean((1, 2)) @ s["image_projection"])
    ids = torch.tensor(case.json["inputs"]["tokens"])
    x = s["text_encoder.token_embedding.weight"][ids] + s["text_encoder.positional_embedding"]
    for i in range(a["text_layers"]):
        x = block(s, f"text_encoder.resblocks.{i}", x, a["text_heads"], True)
    x = r.norm(s, "text_encoder.ln_final", x, SMALL)[torch.arange(len(ids)), ids.argmax(1)]
    v = unit(x @ s["text_projection"])
    losses = pair_loss(u, v, s["logit_scale"], labels)
    given = [
        unit(torch.from_numpy(fill_input(k, (len(labels), a["dim"]), case.seed)).double()).requires_grad_()
        for k in "uv"
    ]
    tau = torch.tensor(1 / 0.07).double().log().requires_grad_()
    more = pair_loss(*given, tau, labels)
    grads = dict(zip(("u", "v", "logtau"), torch.autograd.grad(more["loss"], (*given, tau)), strict=True))
    found = {
        "target": torch.tensor(
            [[float(i == k or p == q > 0) for k, q in enumerate(labels)] for i, p in enumerate(labels)]
        )
    }
    found |= {"image_features": u, "text_features": v, **losses, **{f"feat_{k}": x for k, x in more.items()}}
    found |= {f"feat_grad_{k}": x for k, x in grads.items()}
    found["all_caption_loss"] = pair_loss(*given, tau, [0] * len(labels))["loss"]
    return found, {"grad:": (losses["loss"], {k: s[k] for k in case.json["trainable"]})}


def conv_norm(at: str, outs: int, ins: int, kernel: int, names: tuple[str, str]) -> r.Shapes:
    """A convolution without bias and its norm."""
    return {f"{at}.{names[0]}.weight": [outs, ins, kernel, kernel], **r.batch_normed(f"{at}.{names[1]}", outs)}


def msclip_shapes(a: dict[str, Any]) -> tuple[r.Shapes, dict[str, str]]:
    """Both towers and which text keys are image keys."""
    d, c, side = a["width"], a["custom"], a["image_resolution"] // a["patch_size"]
    state = {"positional_embedding": [a["context_length"], d], "text_projection": [d, a["embed_dim"]]}
    state |= {"token_embedding.weight": [a["vocab_size"], d], "logit_scale": [], "visual.class_embedding": [d]}
    state |= {"visual.positional_embedding": [side * side + 1, d], "visual.proj": [d, a["embed_dim"]]}
    for name in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        state |= r.normed(name, d)
    if c.get("EARLY_CONV"):
        at, width = f"{BLOCK}.0", d // 16
        state |= conv_norm(at, width, 3, 3, ("conv1", "bn1")) | {f"{at}.last_conv.weight": [d, d, 1, 1]}
        for n in range(4):
            one = f"{at}.resnet_stage.conv_{n}"
            state |= conv_norm(one, 2 * width, width, 3, ("conv1", "bn1"))
            state |= conv_norm(one, 2 * width, width, 1, ("downsample.0", "downsample.1"))
            width *= 2
    else:
        state["visual.conv1.weight"] = [d, 3, a["patch_size"], a["patch_size"]]
    if c.get("PARALLEL_IN_V"):
        top, lateral = "visual.transformer.parallel_branch_v", "visual.transformer.parallel_lateral_adapter"
        width, ins = d // 16, 3
        for n, kernel in enumerate(c["PRALLEL_T2B_KERNELS"]):
            if n == 0:
                state |= conv_norm(f"{top}.0", width, 3, 3, ("conv", "bn"))
            else:
                at, middle = f"{top}.{n}.resnet_stage.conv_0", width // 2
                state |= conv_norm(at, middle, ins, 1, ("conv1", "bn1")) | conv_norm(
                    at, middle, middle, 3, ("conv2", "bn2")
                )
                state |= conv_norm(at, width, middle, 1, ("conv3", "bn3"))
                state |= conv_norm(at, width, ins, 1, ("residual_conv", "residual_bn"))
            at = f"{lateral}.{n}"
            state |= conv_norm(f"{at}.top2bottom_dw_conv", width, 1, kernel, ("conv", "bn"))
            state |= {f"{at}.top2bottom_pw_conv.conv.weight": [d, width, 1, 1]} | r.normed(f"{at}.ln_adapt", d)
            state |= conv_norm(f"{at}.bottom_dw_conv", d, 1, 3, ("conv", "bn"))
            ins, width = width, 2 * width
    sizes = {"text_width": d}
    text = text_shapes("transformer.", sizes, 4 * d, a["layers"])
    image = text_shapes("visual.transformer.", sizes, 4 * d, a["layers"])
    state |= {k: v for k, v in image.items() if not (c.get("EARLY_CONV") and k.startswith(f"{BLOCK}.0."))}
    shared = [f"resblocks.{i}.{m}" for i in range(c["N_LAYERS"], a["layers"]) for m in c["SHARE_MODULES"]]
    tied = {
        k: f"visual.{k}" for k in text if any(k.startswith((f"transformer.{m}.", f"transformer.{m}")) for m in shared)
    }
    return state | {k: v for k, v in text.items() if k not in tied}, tied


def conv_bn(s: r.State, at: str, x: Tensor, names: tuple[str, str], stride: int = 1, eps: float = 1e-5) -> Tensor:
    """A padded convolution, full or one filter a channel, and its norm."""
    weight = s[f"{at}.{names[0]}.weight"]
    groups = x.shape[1] if weight.shape[1] == 1 and x.shape[1] == len(weight) else 1
    y = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
    return r.batch_norm(s, f"{at}.{names[1]}", y, eps=eps)


def stem(s: r.State, x: Tensor, patch: int) -> Tensor:
    """The convolutions in the place of the first block."""
    at = f"{BLOCK}.0"
    x = conv_bn(s, at, x, ("conv1", "bn1"), 2).relu()
    for n in range(4):
        stride, one = 1 if n == 3 and patch == 16 else 2, f"{at}.resnet_stage.conv_{n}"
        x = (
            conv_bn(s, one, x, ("conv1", "bn1"), stride) + conv_bn(s, one, x, ("downsample.0", "downsample.1"), stride)
        ).relu()
    return F.conv2d(x, s[f"{at}.last_conv.weight"])


def lateral(s: r.State, a: dict[str, Any], n: int, top: Tensor, x: Tensor) -> Tensor:
    """Fuse a stage of the parallel branch with the tokens."""
    at, side = f"visual.transformer.parallel_lateral_adapter.{n}", a["image_resolution"] // a["patch_size"]
    stride = a["custom"]["PRALLEL_T2B_STRIDES"][n]
    y = F.conv2d(top, s[f"{at}.top2bottom_dw_conv.conv.weight"], None, stride, 0, 1, top.shape[1])
    y = F.conv2d(r.batch_norm(s, f"{at}.top2bottom_dw_conv.bn", y), s[f"{at}.top2bottom_pw_conv.conv.weight"])
    own = x[:, 1:].mT.reshape(len(x), -1, side, side)
    own = conv_bn(s, f"{at}.bottom_dw_conv", own, ("conv", "bn"))
    times = 2 if a["custom"].get("PRALLEL_T2B_USECLS", True) else 1
    tokens = torch.cat([times * x[:, :1], (y + own).flatten(2).mT], 1)
    return r.norm(s, f"{at}.ln_adapt", tokens, SMALL)


def branch(s: r.State, n: int, x: Tensor, patch: int) -> Tensor:
    """One stage of the parallel branch."""
    at = f"visual.transformer.parallel_branch_v.{n}"
    if n == 0:
        return conv_bn(s, at, x, ("conv", "bn"), 2).relu()
    at, stride, eps = f"{at}.resnet_stage.conv_0", 1 if n == 4 and patch == 16 else 2, 1e-6
    y = conv_bn(s, at, x, ("conv1", "bn1"), eps=eps).relu()
    y = conv_bn(s, at, conv_bn(s, at, y, ("conv2", "bn2"), stride, eps).relu(), ("conv3", "bn3"), eps=eps)
    return (y + conv_bn(s, at, x, ("residual_conv", "residual_bn"), stride, eps)).relu()


def msclip(case: Case) -> Any:
    """Logits and features; text blocks take the image's weights where they share them."""
    a, s, c = case.arch, r.doubled(case.state()), case.arch["custom"]
    weights, images = s | {k: s[v] for k, v in case.json["tied"].items()}, r.given(case)
    early, top, d = bool(c.get("EARLY_CONV")), images, a["patch_size"]
    x = stem(s, images, d).flatten(2).mT if early else r.patches(s["visual.conv1.weight"], images)
    x = torch.cat([s["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + s["visual.positional_embedding"]
    x, places = r.norm(s, "visual.ln_pre", x, SMALL), c["PARALLEL_LATERAL_LAYER"] if c.get("PARALLEL_IN_V") else []
    for i in range(early, a["layers"]):
        if i in places:
            n = places.index(i)
            top = branch(s, n, top, d)
            x = lateral(s, a, n, top, x)
        x = block(weights, f"{BLOCK}.{i}", x, a["heads"], False)
    u = unit(r.norm(s, "visual.ln_post", x[:, 0], SMALL) @ s["visual.proj"])
    ids = torch.tensor(case.json["inputs"]["tokens"])
    x = s["token_embedding.weight"][ids] + s["positional_embedding"]
    for i in range(a["layers"]):
        x = block(weights, f"transformer.resblocks.{i}", x, a["heads"], True)
    v = unit(r.norm(s, "ln_final", x[torch.arange(len(ids)), ids.argmax(1)], SMALL) @ s["text_projection"])
    logits = s["logit_scale"].exp() * u @ v.T
    own = {k: s[k] for k in case.json["trainable"]}
    return {"logits": logits, "image_features": u, "text_features": v}, {"grad:": (r.cotangent(case, logits), own)}
