"""Towers, losses and loop of `pretrain_tiny_clip.py`."""

import json
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from xmodal.data.shape_pool import CONTEXT, NAMES, TOKENIZER, Pool
from xmodal.data.shapes import ACTION_WORDS, COLORS, ROUND, SHAPES, vocabulary
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.vit import VisionTransformer

NAME = "tiny-clip-shapes"
STATS = dict(pixel_mean=(0.36, 0.36, 0.36), pixel_std=(0.22, 0.22, 0.22))
VISION = dict(
    image_size=48, patch_size=8, dim=128, depth=4, num_heads=4, act="quick_gelu", pre_norm=True, norm_eps=1e-5,
    patch_bias=False, out_dim=96, name=NAME, **STATS,
)  # fmt: skip
TEXT = dict(
    vocab_size=TOKENIZER.vocab_size, context_length=CONTEXT, dim=96, depth=2, num_heads=3, out_dim=96, name=NAME
)  # fmt: skip
SIDE = 6  # patches along an edge
ROUND_IDS = torch.tensor([SHAPES.index(s) for s in ROUND])


class Pretraining(nn.Module):
    """The two towers and the label heads that are thrown away."""

    def __init__(self):
        super().__init__()
        self.visual = VisionTransformer(**VISION)
        self.text = TextTransformer(**TEXT)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        kinds = len(SHAPES) + len(COLORS)
        self.class_head = nn.Linear(VISION["dim"], kinds)
        self.patch_head = nn.Linear(VISION["dim"], kinds + 5)
        mean, std = (torch.tensor(STATS[k]).view(1, 3, 1, 1) * 255 for k in ("pixel_mean", "pixel_std"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normed tokens of u8 images (B, 3, S, S): all, or the class token and the patches `keep` (B, K)."""
        tokens, grid = self.visual.embed((images.float() - self.mean) / self.std)
        if keep is not None:
            index = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1)  # (B, 1+K)
            tokens = tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
            grid = None
        return self.visual.norm(self.visual.forward_blocks(tokens, grid))  # (B, 1+K, D)

    def image_features(self, tokens: Tensor) -> Tensor:
        """Unit features (B, D_out) of normed tokens."""
        return F.normalize(self.visual.pool(tokens), dim=-1)

    def text_features(self, ids: Tensor) -> Tensor:
        """Unit features (B, D_out) of word numbers (B, CONTEXT)."""
        return F.normalize(self.text(ids), dim=-1)


def contrast(images: Tensor, texts: Tensor, ids: Tensor, scale: Tensor) -> Tensor:
    """Image-text contrast in which equal captions are positives of each other."""
    logits = scale.exp().clamp(max=100) * images @ texts.t()  # (B, B)
    same = (ids[:, None] == ids[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def multi_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of which labels (B, 2; -1 is none) occur, summed over classes."""
    target = torch.zeros(len(logits), logits.shape[1] + 1).scatter_(1, labels % (logits.shape[1] + 1), 1.0)
    return F.binary_cross_entropy_with_logits(logits, target[:, :-1])


def owners(geometry: Tensor, shape: Tensor) -> Tensor:
    """For each patch (B, SIDE**2) the thing that lies on its centre, -1 for none."""
    line = (torch.arange(SIDE) + 0.5) / SIDE
    centres = torch.stack([line.repeat(SIDE), line.repeat_interleave(SIDE)], -1)  # (P, 2), x and y
    away = geometry[:, :, None, :2] - centres  # (B, 2, P, 2)
    inside = (away.norm(dim=-1) < 0.45 * geometry[..., 2:3]) | (away.abs().amax(-1) <= 0.5 / SIDE)
    inside &= (shape >= 0)[..., None]
    return torch.where(inside[:, 1], 1, torch.where(inside[:, 0], 0, -1))


def patch_loss(out: Tensor, owner: Tensor, patch: Tensor, shape: Tensor, color: Tensor, geometry: Tensor) -> Tensor:
    """Shape, colour and geometry of the things that patches lie on.

    Args:
        out: (B, P, shapes + colours + 5) of the patch head.
        owner: (B, P), -1 where a patch is background.
        patch: (B, P) numbers of the patches.
        shape: (B, 2).
        color: (B, 2).
        geometry: (B, 2, 4).
    """
    row, at = (owner >= 0).nonzero(as_tuple=True)
    who, out, patch = owner[row, at], out[row, at], patch[row, at]
    shape, color, (x, y, size, angle) = shape[row, who], color[row, who], geometry[row, who].unbind(-1)
    kinds, tints, where = out.split([len(SHAPES), len(COLORS), 5], dim=-1)
    dx, dy = x * SIDE - (patch % SIDE + 0.5), y * SIDE - (patch // SIDE + 0.5)
    target = torch.stack([dx, dy, 2 * (size / 0.3).log(), angle / 0.3], -1)
    weight = torch.ones_like(target)
    weight[:, 3] = (~torch.isin(shape, ROUND_IDS)).float()
    geometric = (F.smooth_l1_loss(where[:, :4], target, reduction="none") * weight).mean()
    return F.cross_entropy(kinds, shape) + 0.5 * F.cross_entropy(tints, color) + geometric


def window_loss(model: Pretraining, batch: dict[str, Tensor], rng: np.random.Generator) -> Tensor:
    """All losses on windows of 3 by 3 patches around one thing of each picture."""
    count = len(batch["images"])
    which = torch.from_numpy(rng.integers(0, 2, count)) * (batch["shape"][:, 1] >= 0)
    rows = torch.arange(count)
    x, y = batch["geometry"][rows, which, :2].mul(SIDE).floor().long().clamp(1, SIDE - 2).unbind(-1)
    offsets = torch.tensor([dy * SIDE + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    keep = (y * SIDE + x)[:, None] + offsets  # (B, 9)
    tokens = model.tokens(batch["images"], keep)
    shape, color = batch["shape"][rows, which], batch["color"][rows, which]
    ids = batch["phrases"][rows, which]
    loss = 0.5 * contrast(model.image_features(tokens), model.text_features(ids), ids, model.logit_scale)
    kinds, tints = model.class_head(tokens[:, 0]).split([len(SHAPES), len(COLORS)], dim=-1)
    loss = loss + F.cross_entropy(kinds, shape) + 0.5 * F.cross_entropy(tints, color)
    owner = owners(batch["geometry"], batch["shape"]).gather(1, keep)
    head = model.patch_head(tokens[:, 1:])
    return loss + patch_loss(head, owner, keep, batch["shape"], batch["color"], batch["geometry"])


def full_loss(model: Pretraining, batch: dict[str, Tensor]) -> Tensor:
    """All losses on whole pictures."""
    tokens = model.tokens(batch["images"])
    ids = batch["captions"]
    loss = 0.5 * contrast(model.image_features(tokens), model.text_features(ids), ids, model.logit_scale)
    kinds, tints = model.class_head(tokens[:, 0]).split([len(SHAPES), len(COLORS)], dim=-1)
    loss = loss + 6 * multi_label(kinds, batch["shape"]) + 3 * multi_label(tints, batch["color"])
    owner = owners(batch["geometry"], batch["shape"])
    patch = torch.arange(SIDE**2).expand_as(owner)
    head = model.patch_head(tokens[:, 1:])
    return loss + patch_loss(head, owner, patch, batch["shape"], batch["color"], batch["geometry"])


def train(pool: Pool, test: Pool, args: Namespace, start: float) -> Pretraining:
    """Run `args.steps` steps and print the figures now and then."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, 1])
    model = Pretraining()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    warmup = min(100, args.steps // 10)
    rate = lambda s: min(1.0, (s + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * s / args.steps))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    seen = 0
    for step in range(args.steps):
        small = step < args.window_share * args.steps
        batch = take(pool, rng.integers(0, len(pool.images), args.window_batch if small else args.batch), rng)
        loss = window_loss(model, batch, rng) if small else full_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen += len(batch["images"])
        if (step + 1) % max(1, args.steps // 12) == 0:
            spent = time.process_time() - start
            print(step + 1, seen, f"{spent:.0f} CPU-s loss {loss.item():.3f}", measure(model, test), flush=True)
    return model


def take(pool: Pool, index: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """Some pictures of the pool as tensors, with random brightness and contrast."""
    names = ("captions", "phrases", "shape", "color", "geometry")
    batch = {name: torch.from_numpy(getattr(pool, name)[index]) for name in names}
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(index), 1, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(rng.uniform(-12, 12, (len(index), 1, 1, 1)).astype(np.float32))
    batch["images"] = (torch.from_numpy(pool.images[index]) * gain + shift).clamp(0, 255)
    return batch


@torch.no_grad()
def measure(model: Pretraining, test: Pool) -> dict[str, float]:
    """Zero-shot figures in percent on pictures that training has not seen.

    Returns:
        joint: of 64 prompts `a <colour> <shape>`, on pictures of one thing; color, shape: its parts;
        i2t_r1_of_200: the right caption among those of 200 pictures (an equal caption counts);
        patch_shape: shape of the thing a patch lies on, by the head that is thrown away.
    """
    model.eval()
    tokens = torch.cat([model.tokens(torch.from_numpy(part)) for part in np.array_split(test.images, 10)])
    images = model.image_features(tokens)
    prompts = TOKENIZER([f"a {color} {shape}" for color in NAMES for shape in SHAPES])
    alone = torch.from_numpy(test.shape[:, 1] < 0)
    shape, color = torch.from_numpy(test.shape), torch.from_numpy(test.color)
    guess = (images[alone] @ model.text_features(prompts).t()).argmax(1)
    right_color = guess // len(SHAPES) == color[alone, 0]
    right_shape = guess % len(SHAPES) == shape[alone, 0]
    ids = torch.from_numpy(test.captions)
    hits = []
    for part in torch.arange(len(ids)).split(200):
        best = (images[part] @ model.text_features(ids[part]).t()).argmax(1)
        hits.append((ids[part][best] == ids[part]).all(-1))
    owner = owners(torch.from_numpy(test.geometry), shape)
    row, at = (owner >= 0).nonzero(as_tuple=True)
    kinds = model.patch_head(tokens[row, at + 1])[:, : len(SHAPES)].argmax(1)
    model.train()
    found = {
        "joint": right_color & right_shape,
        "color": right_color,
        "shape": right_shape,
        "i2t_r1_of_200": torch.cat(hits),
        "patch_shape": kinds == shape[row, owner[row, at]],
    }
    return {name: round(100 * value.float().mean().item(), 1) for name, value in found.items()}


def save(model: Pretraining, out: Path, training: dict, figures: dict[str, float]) -> None:
    """Write tiny_clip.safetensors (half precision) and tiny_clip.json."""
    out.mkdir(parents=True, exist_ok=True)
    kept = ("visual.", "text.", "logit_scale")
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if k.startswith(kept)}
    save_file(state, out / "tiny_clip.safetensors")
    facts = {
        "name": NAME,
        "vision": VISION,
        "text": TEXT,
        "vocab": vocabulary(),
        "untrained_words": [w for w in ACTION_WORDS if w in vocabulary()],
        "data": "xmodal/data/shapes.py: 8 shapes x 8 colours x 3 sizes, one or two on procedural backgrounds, 48 px",
        "method": "image-text-label pretraining: image-text contrast, labels of the picture, labels and geometry of "
        "patches; windows first",
        "training": training,
        "zero_shot_percent": {**figures, "pictures": "1000 of another seed, the pictures of one thing among them"},
    }
    (out / "tiny_clip.json").write_text(json.dumps(facts, indent=1) + "\n")
