"""Training steps of VQT: the released formulation (queries in the graph), ours, the frozen forward, and VPT beside it.

Both formulations compute the same features; the bench checks that before it measures. VPT is the method of the same
kind that needs gradients through the tower.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.benches.measure import CLASSES, SIZES, Wanted, images_for, of_models, train_step
from xmodal.adapters.vpt import vpt
from xmodal.encoders.vit import VisionTransformer
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel
from xmodal.vqt import VisualQueries

QUERIES = 1
WANTED = {
    "vqt": [Wanted("peak", "ours", "released formulation", 0.35), Wanted("time", "ours", "released formulation", 1.0)]
}


class PlainBlock(nn.Module):
    """A block as released: queries and tokens go through it as one sequence, the attention map is made."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, N, D) and queries (T, D) to tokens (B, N, D) and outputs (B, T, D)."""
        block, number = self.block, len(queries)
        both = torch.cat([queries.expand(len(x), -1, -1), x], dim=1)
        u, dim = block.norm1(both), x.shape[-1]
        weights, biases = block.attn.qkv.weight.split(dim), block.attn.qkv.bias.split(dim)
        q = block.attn.heads(F.linear(u, weights[0], biases[0]))
        k, v = (block.attn.heads(F.linear(u[:, number:], weights[i], biases[i])) for i in (1, 2))
        attention = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        both = both + block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
        both = both + block.mlp(block.norm2(both))
        return both[:, number:], both[:, :number]


class PlainVQT(nn.Module):
    """VQT as released: the whole tower is part of the graph although no gradient of the class feature is left."""

    def __init__(self, model: TransferModel):
        super().__init__()
        self.model = model
        self.blocks = nn.ModuleList(PlainBlock(block) for block in model.encoder.blocks)

    def features(self, image: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to features (B, D*(1+L*T))."""
        encoder, reader = self.model.encoder, self.model.reader
        tokens, grid = encoder.embed(image)
        groups = []
        for block, queries in zip(self.blocks, reader.queries, strict=True):
            tokens, out = block(tokens, queries)
            groups.append(out.flatten(1))
        groups = [encoder.norm(tokens, grid)[:, 0], *groups]
        return torch.cat([F.normalize(group, dim=-1) for group in groups], dim=-1)

    def forward(self, mode: str, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a batch."""
        return self.model.head.loss(self.features(image), label)


def encoder(size: str) -> VisionTransformer:
    """A tower of a size, with weights that are all alike in every call."""
    torch.manual_seed(0)
    return VisionTransformer(**SIZES[size])


def vqt_model(args) -> TransferModel:
    """VQT on a frozen tower."""
    tower = encoder(args.size)
    return TransferModel(
        tower,
        dict(type=ClassificationHead, num_classes=CLASSES),
        reader=dict(type=VisualQueries, num_queries=QUERIES),
    ).train()


def vpt_model(args) -> TransferModel:
    """VPT-deep with as many prompts: gradients run through all blocks."""
    head = dict(type=ClassificationHead, num_classes=CLASSES)
    return TransferModel(encoder(args.size), head, [dict(type=vpt, num_tokens=10)]).train()


def plain_model(args) -> PlainVQT:
    """The released formulation on the same weights."""
    return PlainVQT(vqt_model(args)).train()


def frozen_forward(state):
    """Run the frozen tower alone, which any reader of it pays for."""
    model, batch = state
    with torch.no_grad():
        return model.encoder.forward_blocks(*model.encoder.embed(batch["image"]), read="prefix")


def check(args, data) -> None:
    """Both formulations give the same features and gradients, and none reaches the tower.

    Raises:
        ValueError: they do not.
    """
    ours, plain = vqt_model(args), plain_model(args)
    plain.model.load_state_dict(ours.state_dict())
    a, b = ours.features(image=data["image"]), plain.features(data["image"])
    train_step((ours, data))
    train_step((plain, data))
    grads = [m.reader.queries.grad for m in (ours, plain.model)]
    apart = float((a - b).detach().abs().max()), float((grads[0] - grads[1]).norm() / grads[1].norm())
    if apart[0] > 1e-4 or apart[1] > 1e-3:
        raise ValueError(f"the formulations differ: features by {apart[0]:.1e}, gradients by {apart[1]:.1e}")
    tokens, grid = ours.encoder.embed(data["image"])
    if ours.encoder.forward_blocks(tokens, grid).requires_grad or any(
        p.grad is not None for p in ours.encoder.parameters()
    ):
        raise ValueError("a gradient reaches the tower")
    print(f"same numbers: features within {apart[0]:.1e}, gradients of the queries within {apart[1]:.1e}", flush=True)


def vqt(args):
    """VQT with 1 query: released formulation, ours, the frozen forward; VPT-deep beside it."""
    data = images_for(args)
    check(args, data)
    rows = {
        "released formulation": (train_step, plain_model),
        "ours": (train_step, vqt_model),
        "VPT-deep, 10 prompts": (train_step, vpt_model),
        "frozen forward": (frozen_forward, vqt_model),
    }
    return of_models(rows, args, data)
