"""AIM, Side4Video and DiST from their formulas; official keys."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case


def aim_shapes(a: dict[str, Any], hidden: int, side: int) -> r.Shapes:
    """A whole released model."""
    d, h = a["width"], int(a["width"] * 0.25)
    state = r.clip_shapes("backbone.", d, a["layers"], hidden, a["patch_size"], side)
    state["backbone.temporal_embedding"] = [1, a["num_frames"], d]
    names = ["S_Adapter", "T_Adapter", "MLP_Adapter"] + ["T_Adapter_in"] * (a["num_tadapter"] == 2)
    for i in range(a["layers"]):
        for name in names:
            at = f"backbone.transformer.resblocks.{i}.{name}"
            state |= r.affine(f"{at}.D_fc1", h, d) | r.affine(f"{at}.D_fc2", d, h)
    return state | r.affine("cls_head.fc_cls", a["num_classes"], d)


def aim_variant(case: Case) -> tuple[dict[str, Tensor], Any]:
    """Time, space and joint adaptation by the paper's three steps."""
    a, s, video = case.arch, r.doubled(case.state()), r.given(case, "video")
    frames = video.transpose(1, 2)  # (B, T, 3, H, W)
    b, t = frames.shape[:2]
    x = r.clip_embed(s, frames.flatten(0, 1), "backbone.", s["backbone.temporal_embedding"][0].repeat(b, 1)[:, None])
    heads, found = a["heads"], {}
    for i in range(a["layers"]):
        at = f"backbone.transformer.resblocks.{i}"

        def adapter(name: str, u: Tensor, at: str = at) -> Tensor:
            return r.linear(s, f"{at}.{name}.D_fc2", r.gelu(r.linear(s, f"{at}.{name}.D_fc1", u)))

        u = r.norm(s, f"{at}.ln_1", x).view(b, t, *x.shape[1:]).transpose(1, 2)  # (B, N, T, D)
        if a["num_tadapter"] == 2:
            u = u + adapter("T_Adapter_in", u)
        y = adapter("T_Adapter", r.packed(s, f"{at}.attn", u, u, u, heads))
        x = x + y.transpose(1, 2).flatten(0, 1)
        u = r.norm(s, f"{at}.ln_1", x)
        y = r.packed(s, f"{at}.attn", u, u, u, heads)
        x = x + y + adapter("S_Adapter", y)
        u = r.norm(s, f"{at}.ln_2", x)
        x = x + r.clip_mlp(s, at, u) + a["adapter_scale"] * adapter("MLP_Adapter", u)
        found[f"block{i}_out"] = x
    feature = r.norm(s, "backbone.ln_post", x)[:, 0].view(b, t, -1)
    logits = r.linear(s, "cls_head.fc_cls", feature.mean(1))
    keys = [k for k in s if any(w in k for w in ("Adapter", "temporal_embedding", "ln_post", "fc_cls"))]
    return found | {"features": feature.mT, "logits": logits}, (r.cotangent(case, logits), r.frozen(s, keys))


def variants(formula: Any) -> r.Formula:
    """All variants of a case under their names."""

    def whole(case: Case) -> Any:
        arrays, losses = {}, {}
        for tag, variant in case.variants():
            found, loss = formula(variant)
            arrays |= {f"{tag}.{k}": v for k, v in found.items()}
            losses[f"{tag}.grad:"] = loss
        return arrays, losses

    return whole


def side_shapes(a: dict[str, Any], hidden: int, side: int) -> r.Shapes:
    """Side4Video beside a CLIP tower."""
    w, d, p = a["width"], a["side_dim"], a["patch_size"]
    state = r.clip_shapes("visual.", w, a["layers"], hidden, p, side)
    state["visual.transformer.side_spatial_position_embeddings"] = [side * side, d]
    state |= {"visual.side_conv1.weight": [d, 3, 3, p, p], "visual.side_conv1.bias": [d]}
    state |= r.batch_normed("visual.side_pre_bn3d", d) | r.batch_normed("visual.side_post_bn", d)
    for i in range(a["layers"]):
        at = f"visual.transformer.side_transformer.{i}"
        state |= r.normed(f"visual.transformer.side_lns.{i}", w) | r.affine(
            f"visual.transformer.side_linears.{i}", d, w
        )
        state |= time_conv(at, d) | r.batch_normed(f"{at}.bn_1", d) | r.batch_normed(f"{at}.bn_2", d)
        state |= r.normed(f"{at}.ln_1", d) | r.multihead(f"{at}.attn", d)
        state |= r.affine(f"{at}.mlp.fc1", 4 * d, d) | r.affine(f"{at}.mlp.fc2", d, 4 * d)
    return state | r.affine("fc", a["num_classes"], d)


def time_conv(at: str, d: int) -> r.Shapes:
    """Three convolutions."""
    shapes = {0: [d, d, 1, 1, 1], 1: [d, 1, 3, 1, 1], 2: [d, d, 1, 1, 1]}
    return {f"{at}.conv.{n}.weight": shape for n, shape in shapes.items()} | {
        f"{at}.conv.{n}.bias": [d] for n in shapes
    }


def convolved(s: r.State, at: str, z: Tensor) -> Tensor:
    """Over frames, from z (B, d, T, h, w)."""
    for n, (pad, groups) in enumerate(((0, 1), (1, z.shape[1]), (0, 1))):
        z = F.conv3d(z, s[f"{at}.conv.{n}.weight"], s[f"{at}.conv.{n}.bias"], padding=(pad, 0, 0), groups=groups)
    return z


def shifted(c: Tensor) -> Tensor:
    """Class tokens (B, T, d): first half of the channels from the next frame, second half from the one before."""
    out, half, frames = torch.zeros_like(c), c.shape[2] // 2, c.shape[1]
    for t in range(frames):
        if t + 1 < frames:
            out[:, t, :half] = c[:, t + 1, :half]
        if t:
            out[:, t, half:] = c[:, t - 1, half:]
    return out


def tokens_of(z: Tensor) -> Tensor:
    """(B, d, T, h, w) to (B, T, P, d)."""
    return z.permute(0, 2, 3, 4, 1).flatten(2, 3)


def side_pass(case: Case, s: r.State, outs: list[Tensor], train: bool) -> tuple[list[Tensor], Tensor]:
    """The side network on the outputs of the tower's blocks (B*T, 1 + P, W)."""
    a, clips = case.arch, r.given(case, "video").transpose(1, 2)  # (B, 3, T, H, W)
    p, heads = a["patch_size"], a["side_heads"]
    z = F.conv3d(clips, s["visual.side_conv1.weight"], s["visual.side_conv1.bias"], (1, p, p), (1, 0, 0))
    z = r.batch_norm(s, "visual.side_pre_bn3d", z, train)
    states = []
    for i, o in enumerate(outs):
        at = f"visual.transformer.side_transformer.{i}"
        u = r.linear(s, f"visual.transformer.side_linears.{i}", r.norm(s, f"visual.transformer.side_lns.{i}", o))
        u = u.view(len(z), z.shape[2], *u.shape[1:])
        z = 0.5 * z + 0.5 * maps(u[:, :, 1:], z)
        z = z + convolved(s, at, r.batch_norm(s, f"{at}.bn_1", z, train))
        seen = tokens_of(z) + s["visual.transformer.side_spatial_position_embeddings"]
        y = r.norm(s, f"{at}.ln_1", torch.cat([shifted(u[:, :, 0])[:, :, None], seen], 2))
        z = z + maps(r.packed(s, f"{at}.attn", y[:, :, 1:], y, y, heads), z)
        y = tokens_of(r.batch_norm(s, f"{at}.bn_2", z, train))
        z = z + maps(r.linear(s, f"{at}.mlp.fc2", r.gelu(r.linear(s, f"{at}.mlp.fc1", y))), z)
        states.append(z)
    feature = r.batch_norm(s, "visual.side_post_bn", z, train).mean((2, 3, 4))
    return states, feature


def maps(tokens: Tensor, z: Tensor) -> Tensor:
    """(B, T, P, d) to the shape of z (B, d, T, h, w)."""
    return tokens.permute(0, 3, 1, 2).reshape(z.shape)


def side4video(case: Case) -> Any:
    """The CLIP flavor, in evaluation and in training."""
    a, s = case.arch, r.doubled(case.state())
    x = r.clip_embed(s, r.given(case, "video").flatten(0, 1), "visual.")
    outs = []
    for i in range(a["layers"]):
        x = r.clip_block(s, f"visual.transformer.resblocks.{i}", x, a["heads"])
        outs.append(x.detach())
    states, feature = side_pass(case, s, outs, False)
    logits = r.linear(s, "fc", feature)
    trained = r.linear(s, "fc", side_pass(case, s, outs, True)[1])
    found = {f"side{i}": tokens_of(z).flatten(0, 1).transpose(0, 1) for i, z in enumerate(states)}
    found |= {"features": feature, "logits": logits, "train_logits": trained}
    own = r.frozen(s, [k for k in s if "side" in k or k.startswith("fc.")])
    loss = F.cross_entropy(trained, torch.tensor(case.json["labels"]))
    return found, {"grad:": (r.cotangent(case, logits), own), "traingrad:": (loss, own)}


def eva_shapes(a: dict[str, Any], hidden: int, side: int) -> r.Shapes:
    """Side4Video beside EVA's tower."""
    w, d, p = a["width"], a["side_dim"], a["patch_size"]
    state: r.Shapes = {"visual.cls_token": [1, 1, w], "visual.pos_embed": [1, side * side + 1, w]}
    state |= {"visual.patch_embed.proj.weight": [w, 3, p, p], "visual.patch_embed.proj.bias": [w]}
    for i in range(a["layers"]):
        at = f"visual.blocks.{i}"
        state |= {f"{at}.attn.qkv.weight": [3 * w, w], f"{at}.attn.q_bias": [w], f"{at}.attn.v_bias": [w]}
        state |= r.affine(f"{at}.attn.proj", w, w) | r.normed(f"{at}.norm1", w) | r.normed(f"{at}.norm2", w)
        state |= r.affine(f"{at}.mlp.fc1", hidden, w) | r.affine(f"{at}.mlp.fc2", w, hidden)
    state |= r.normed("visual.norm", w) | r.affine("visual.head", a["embed_dim"], w)
    state["visual.side_spatial_position_embeddings"] = [side * side, d]
    state |= {"visual.side_conv1.weight": [d, 3, 3, p, p], "visual.side_conv1.bias": [d]}
    state |= r.batch_normed("visual.side_pre_bn3d", d)
    for k in range(a["layers"] // 2):
        at = f"visual.side_blocks.{k}"
        state |= time_conv(at, d) | r.batch_normed(f"{at}.bn_1", d) | r.batch_normed(f"{at}.bn_2", d)
        state |= r.affine(f"{at}.mlp.0", 4 * d, d) | r.affine(f"{at}.mlp.2", d, 4 * d) | r.normed(f"{at}.ln_1", d)
        for name in ("q_proj", "k_proj", "v_proj", "proj"):
            state |= r.affine(f"{at}.attn.{name}", d, d)
        state |= r.affine(f"visual.side_linears.{k}", d, w) | r.normed(f"visual.side_lns.{k}", d)
    return state | r.affine("fc", a["num_classes"], d)


def eva_trunk(case: Case, s: r.State) -> list[Tensor]:
    """Outputs of the blocks with odd numbers; norms behind attention and MLP."""
    a, frames = case.arch, r.given(case, "video").flatten(0, 1)
    x = r.patches(s["visual.patch_embed.proj.weight"], frames, s["visual.patch_embed.proj.bias"])
    x = torch.cat([s["visual.cls_token"].expand(len(x), -1, -1), x], 1) + s["visual.pos_embed"]
    outs = []
    for i in range(a["layers"]):
        at = f"visual.blocks.{i}"
        q, k, v = (x @ w.T for w in s[f"{at}.attn.qkv.weight"].chunk(3))
        y = r.attention(q + s[f"{at}.attn.q_bias"], k, v + s[f"{at}.attn.v_bias"], a["heads"])
        x = x + r.norm(s, f"{at}.norm1", r.linear(s, f"{at}.attn.proj", y), 1e-6)
        y = r.linear(s, f"{at}.mlp.fc2", r.gelu(r.linear(s, f"{at}.mlp.fc1", x)))
        x = x + r.norm(s, f"{at}.norm2", y, 1e-6)
        outs.append(x.detach())
    return outs[1::2]


def eva_pass(case: Case, s: r.State, outs: list[Tensor], train: bool) -> Tensor:
    """The side network with norms behind its branches."""
    a, clips = case.arch, r.given(case, "video").transpose(1, 2)
    p = a["patch_size"]
    z = F.conv3d(clips, s["visual.side_conv1.weight"], s["visual.side_conv1.bias"], (1, p, p), (1, 0, 0))
    z = r.batch_norm(s, "visual.side_pre_bn3d", z, train)
    for k, o in enumerate(outs):
        at = f"visual.side_blocks.{k}"
        u = r.norm(s, f"visual.side_lns.{k}", r.linear(s, f"visual.side_linears.{k}", o))
        u = u.view(len(z), z.shape[2], *u.shape[1:])
        z = 0.5 * z + 0.5 * maps(u[:, :, 1:], z)
        z = z + r.batch_norm(s, f"{at}.bn_1", convolved(s, at, z), train)
        y = torch.cat([shifted(u[:, :, 0])[:, :, None], tokens_of(z) + s["visual.side_spatial_position_embeddings"]], 2)
        q, key, v = (r.linear(s, f"{at}.attn.{n}_proj", x) for n, x in (("q", y[:, :, 1:]), ("k", y), ("v", y)))
        y = r.linear(s, f"{at}.attn.proj", r.attention(q, key, v, a["side_heads"]))
        z = z + maps(r.norm(s, f"{at}.ln_1", y), z)
        y = r.linear(s, f"{at}.mlp.2", r.gelu(r.linear(s, f"{at}.mlp.0", tokens_of(z))))
        z = z + r.batch_norm(s, f"{at}.bn_2", maps(y, z), train)
    return z.mean((2, 3, 4))


def side4video_eva(case: Case) -> Any:
    """The EVA flavor."""
    s = r.doubled(case.state())
    outs = eva_trunk(case, s)
    feature = eva_pass(case, s, outs, False)
    logits = r.linear(s, "fc", feature)
    found = {"features": feature, "logits": logits, "train_logits": r.linear(s, "fc", eva_pass(case, s, outs, True))}
    own = r.frozen(s, [k for k in s if "side" in k or k.startswith("fc.")])
    return found, {"grad:": (r.cotangent(case, logits), own)}
