"""Training steps of ST-Adapter and EVL at real scale against the released formulations and the floors."""

from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from tools.benches.measure import SIZES, Variant, Wanted, of_models, train_step
from video.evl import EVLDecoder, EVLLayer
from video.readers import TimeMeanReader
from video.st_adapter import STAdapter
from video.st_adapter import st_adapter as st_adapter_method
from xmodal.encoders.vit import VisionTransformer
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

WANTED = {
    "st_adapter": [
        Wanted("time", "ours", "floor: forward and input gradient", 1.04),
        Wanted("time", "ours, first 2 blocks recomputed", "released formulation", 1.05),
        Wanted("kept", "ours, first 2 blocks recomputed", "released formulation", 0.6),
        Wanted("time", "ours, bf16 trunk", "ours", 1 / 1.6),
    ],
    "evl": [
        Wanted("time", "ours", "frozen forward", 1.10),
        Wanted("time", "ours", "released formulation", 1 / 1.45),
        Wanted("kept", "ours", "released formulation", 0.4),
    ],
    "temporal_conv": [Wanted("time", "ours", "Conv3d with permutes", 1 / 3)],
}


class PlainGELU(nn.Module):
    """QuickGELU as released: three tensors are kept."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class PlainSTAdapter(STAdapter):
    """As released: Conv3d between permutes, in every block, the last one too."""

    edits_patches_only = False

    def forward(self, x, grid=None):
        u = self.fc1(x[:, grid.prefix :]).view(-1, grid.t, grid.h, grid.w, self.fc1.out_features)
        v = self.conv(u.permute(0, 4, 1, 2, 3).contiguous()).permute(0, 2, 3, 4, 1).contiguous()
        y = x.clone()
        y[:, grid.prefix :] += self.fc2(v.view(len(x), -1, self.fc1.out_features))
        return y


def encoder(size, plain=False):
    torch.manual_seed(0)
    tower = VisionTransformer(act="quick_gelu", pre_norm=True, patch_bias=False, norm_eps=1e-5, **SIZES[size])
    if plain:
        for block in tower.blocks:
            block.mlp.act.op = PlainGELU()
    return tower


def head(classes=400):
    return dict(type=ClassificationHead, num_classes=classes, dropout=0.5)


def clips_for(args):
    side = SIZES[args.size]["image_size"]
    clips = torch.randn(args.batch, 1, args.frames, 3, side, side)
    return dict(clips=clips, label=torch.zeros(args.batch, dtype=torch.long))


def frozen_forward(state):
    model, batch = state
    with torch.no_grad():
        return model.features(clips=batch["clips"])


def st_adapter_model(args, plain=False, classes=400, **options):
    width = SIZES[args.size]["dim"] // 2
    if not plain:
        adapters = [dict(type=st_adapter_method, bottleneck=width)]
        model = TransferModel(encoder(args.size), head(classes), adapters, dict(type=TimeMeanReader), **options)
    else:
        from xmodal.encoders.sites import place

        def plain_adapters(encoder):
            for block in encoder.blocks:
                place(block, "pre_mlp", "st_adapter", PlainSTAdapter(encoder.dim, width))

        reader = dict(type=TimeMeanReader)
        model = TransferModel(encoder(args.size, plain=True), head(), [dict(type=plain_adapters)], reader)
        model.reader.reads = "all"
    return model.train()


def input_gradient_step(state, read="all"):
    """The floor of anything that trains from the first block on: frozen forward and the gradient of its input."""
    model, batch = state
    with torch.no_grad():
        tokens, grid = model.embed(clips=batch["clips"])
    tokens.requires_grad_(True)
    out = model.encoder.forward_blocks(tokens, grid, read=read)
    loss = model.head.loss(model.reader(out, grid, model.encoder, None), batch["label"])["loss"]
    loss.backward()
    return loss


def probe(args, **options):
    return TransferModel(encoder(args.size), head(), reader=dict(type=TimeMeanReader), **options).train()


def full(args):
    reader = dict(type=TimeMeanReader)
    return TransferModel(encoder(args.size, plain=True), head(), reader=reader, freeze_encoder=False).train()


def st_adapter(args):
    """ST-Adapter 12 x D/2: released formulation, ours, floors, frozen forward, full fine-tuning."""
    data = clips_for(args)
    rows = {
        "released formulation": (train_step, partial(st_adapter_model, plain=True)),
        "ours": (train_step, st_adapter_model),
        "ours, first 2 blocks recomputed": (train_step, partial(st_adapter_model, recompute=2)),
        "ours, bf16 trunk": (train_step, partial(st_adapter_model, trunk_dtype="bf16")),
        "floor: forward and input gradient": (input_gradient_step, probe),
        "the same, last block pruned": (partial(input_gradient_step, read="prefix"), probe),
        "frozen forward": (frozen_forward, probe),
        "full fine-tuning": (train_step, full),
    }
    return of_models(rows, args, data)


class PlainEVLLayer(EVLLayer):
    """As released: keys and values of every token projected, the gathered (n, n, D) tables."""

    def forward(self, x, frames, maps, grid):
        y, heads = self.norm3(self.augment(frames, maps, grid).flatten(1, 2)), self.attn.num_heads
        q, k, v = (
            p(t).unflatten(-1, (heads, -1)).transpose(1, 2)
            for p, t in ((self.attn.q_proj, self.norm1(x)), (self.attn.k_proj, y), (self.attn.v_proj, y))
        )
        attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.attn.out_proj((attention @ v).transpose(1, 2).flatten(2))
        hidden = self.fc1(self.norm2(x))
        return x + self.fc2(self.dropout(hidden * torch.sigmoid(1.702 * hidden)))

    def augment(self, frames, maps, grid):
        b, t, n, d = frames.shape
        conv = self.temporal_conv(frames.permute(0, 2, 3, 1).reshape(b * n, d, t))
        y = frames + conv.view(b, n, d, t).permute(0, 3, 1, 2) + self.temporal_pos_embed[:, None]
        h, w = grid.h, grid.w
        i, j = torch.arange(h * w)[:, None], torch.arange(h * w)[None]
        index = (i // w - j // w + h - 1) * (2 * w - 1) + (i % w - j % w + w - 1)
        table = self.cross_attention
        for one, weight, before in ((maps[0], table.w1, 1), (maps[1], table.w2, 0)):
            motion = torch.einsum("btqk,qkc->btqc", one, weight[index])
            y = y + F.pad(motion, (0, 0, grid.prefix, 0, before, 1 - before))
        return y


def unfused_attention(self, x, grid=None, rows=None, tap=None, branches=None):
    """Attention as released: the map is made, everything is returned."""
    q, k, v = self.project(x, grid, rows)
    if tap is not None:
        tap.write("attn.q", q)
        tap.write("attn.k", k)
    attention = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
    return self.proj((attention @ v).transpose(1, 2).flatten(2))


def evl_model(args, plain=False, recompute=2, **options):
    layers = min(4, SIZES[args.size]["depth"] - 1)
    reader = dict(type=EVLDecoder, num_frames=args.frames, num_layers=layers, recompute=recompute)
    heads = dict(head(), norm=True, init_std=None)
    model = TransferModel(encoder(args.size, plain), heads, reader=reader, **options).train()
    if plain:
        for block in model.encoder.blocks:
            block.attn.forward = unfused_attention.__get__(block.attn)
        for layer in model.reader.decoder:
            layer.__class__ = PlainEVLLayer
    return model


def evl(args):
    """EVL, decoder of 4 layers: released formulation, ours, the frozen forward it stands on."""
    data = clips_for(args)
    rows = {
        "released formulation": (train_step, partial(evl_model, plain=True)),
        "ours": (train_step, evl_model),
        "ours, nothing recomputed": (train_step, partial(evl_model, recompute=0)),
        "ours, bf16 trunk": (train_step, partial(evl_model, trunk_dtype="bf16")),
        "frozen forward": (frozen_all, probe),
        "frozen forward, bf16 trunk": (frozen_all, partial(probe, trunk_dtype="bf16")),
    }
    return of_models(rows, args, data)


def frozen_all(state):
    """The frozen forward with the whole last block, which EVL reads."""
    model, batch = state
    with torch.no_grad():
        return model.encoder.forward_blocks(*model.embed(clips=batch["clips"]))


def forward(args):
    """The frozen forward alone, as a reader of the class token needs it: released arithmetic, float32, bf16."""
    data = clips_for(args)

    def plain(args):
        model = probe(args)
        for block in model.encoder.blocks:
            block.mlp.act.op, block.attn.forward = PlainGELU(), unfused_attention.__get__(block.attn)
        model.reader.reads = "all"
        return model

    makers = {"unfused, whole last block": plain, "float32": probe, "bf16 trunk": partial(probe, trunk_dtype="bf16")}
    return of_models({name: (frozen_forward, make) for name, make in makers.items()}, args, data)


def temporal_conv(args):
    """ST-Adapter's (3, 1, 1) convolution alone, forward and backward: Conv3d between permutes against ours."""
    dims = SIZES[args.size]
    side, width = dims["image_size"] // dims["patch_size"], dims["dim"] // 2
    grid = SimpleNamespace(t=args.frames, h=side, w=side)
    u = torch.randn(args.batch * args.frames, side * side, width, requires_grad=True)

    def plain(adapter):
        v = adapter.conv(u.view(-1, grid.t, side, side, width).permute(0, 4, 1, 2, 3).contiguous())
        out = v.permute(0, 2, 3, 4, 1).contiguous().sum()
        out.backward()
        return out

    def ours(adapter):
        out = adapter.convolve(u, grid).sum()
        out.backward()
        return out

    def make():
        return STAdapter(dims["dim"], width)

    return [Variant("Conv3d with permutes", plain, make), Variant("ours", ours, make)]
