"""Image-text-label pretraining of small towers: contrast, labels of pictures, labels and geometry of patches.

Papers: CLIP (arXiv 2103.00020) and UniCL (2204.03610) for the contrast, FLIP (2212.00794) for training on a part of the
patches first. What the label heads learn is thrown away with them; `SaveTowersHook` keeps the rest.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from safetensors.torch import save_file
from torch import Tensor, nn

from xmodal.engine.checkpoint import bare
from xmodal.losses import same_text_label, unicl_loss
from xmodal.pretraining import ContrastiveModel
from xmodal.registry import HOOKS, MODELS
from xmodal.toys.shape_captions import CLASSES
from xmodal.toys.shapes import COLORS, ROUND, SHAPES

KINDS, TINTS = len(SHAPES), len(COLORS)


@MODELS.register_module(name="image_text_label")
class ImageTextLabelModel(ContrastiveModel):
    """Two towers that learn from captions, from labels of shape and color, and from where things lie.

    Its batches are those of `ShapeThings`. Equal texts are positives of each other.

    Args:
        clip: the towers, a ViT among them, or their config.
        classes: as in `ContrastiveModel`.
        templates: likewise.
    """

    def __init__(self, clip: Any, classes: Any = tuple(CLASSES), templates: Any = ("a {}",)):
        super().__init__(clip, "unicl", classes=classes, templates=templates)
        width = self.clip.visual.dim
        self.class_head = nn.Linear(width, KINDS + TINTS)
        self.patch_head = nn.Linear(width, KINDS + TINTS + 5)
        self.windows = False  # of 3 by 3 patches around one thing, instead of whole pictures

    def forward(self, mode: str = "tensor", **batch: Any) -> Any:  # type: ignore[override]  # one batch, whole
        """As `ContrastiveModel.forward`; `loss` reads the batch of `ShapeThings`."""
        if mode != "loss":
            return super().forward(mode, **batch)
        return self.window_loss(batch) if self.windows else self.picture_loss(batch)

    def picture_loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """All losses on whole pictures."""
        tokens, ids = self.tokens_of(batch["image"]), batch["text"]
        kinds, tints = self.class_head(tokens[:, 0]).split([KINDS, TINTS], dim=-1)
        labels = 6 * multi_label(kinds, batch["shape"]) + 3 * multi_label(tints, batch["color"])
        side = self.side
        owner = owners(batch["geometry"], batch["shape"], side)
        patch = torch.arange(side**2, device=owner.device).expand_as(owner)
        return self.total(tokens, ids, labels, owner, patch, batch)

    def window_loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """All losses on windows of 3 by 3 patches around one thing of each picture."""
        side, rows = self.side, torch.arange(len(batch["shape"]), device=batch["shape"].device)
        which = torch.randint(0, 2, rows.shape, device=rows.device) * (batch["shape"][:, 1] >= 0)
        keep = window(batch["geometry"][rows, which], side)  # (B, 9)
        tokens = self.tokens_of(batch["image"], keep)
        kinds, tints = self.class_head(tokens[:, 0]).split([KINDS, TINTS], dim=-1)
        labels = F.cross_entropy(kinds, batch["shape"][rows, which])
        labels = labels + 0.5 * F.cross_entropy(tints, batch["color"][rows, which])
        owner = owners(batch["geometry"], batch["shape"], side).gather(1, keep)
        return self.total(tokens, batch["phrases"][rows, which], labels, owner, keep, batch)

    def total(
        self, tokens: Tensor, ids: Tensor, labels: Tensor, owner: Tensor, patch: Tensor, batch: dict
    ) -> dict[str, Tensor]:
        """Half the contrast, the labels of pictures, and what patches say about the things that lie on them."""
        image = F.normalize(self.clip.visual.pool(tokens), dim=-1)
        text = self.clip.encode_text(ids, normalize=True)
        contrast = unicl_loss(image, text, self.log_scale, same_text_label(ids))["loss"]
        patches = patch_loss(self.patch_head(tokens[:, 1:]), owner, patch, batch, self.side)
        return {
            "loss": 0.5 * contrast + labels + patches,
            "contrast": contrast.detach(),
            "labels": labels.detach(),
            "patches": patches.detach(),
        }

    @property
    def side(self) -> int:
        """Patches along an edge."""
        return self.clip.visual.image_size // self.clip.visual.patch_size

    def tokens_of(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normed tokens (B, 1+K, D) of images (B, 3, S, S): all, or the class token and the patches `keep` (B, K)."""
        visual = self.clip.visual
        tokens, grid = visual.embed(images)
        if keep is not None:
            index = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1)  # (B, 1+K)
            tokens = tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
        return visual.norm(visual.forward_blocks(tokens, grid if keep is None else None))


def multi_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of which labels (B, 2; -1 is none) occur, mean over samples and classes."""
    width = logits.shape[1] + 1
    target = logits.new_zeros(len(logits), width).scatter_(1, labels % width, 1.0)
    return F.binary_cross_entropy_with_logits(logits, target[:, :-1])


def window(geometry: Tensor, side: int) -> Tensor:
    """Numbers (B, 9) of the 3 by 3 patches around the centers of things, geometry (B, 4), inside the picture."""
    x, y = geometry[:, :2].mul(side).floor().long().clamp(1, side - 2).unbind(-1)
    offsets = torch.tensor([dy * side + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)], device=geometry.device)
    return (y * side + x)[:, None] + offsets


def owners(geometry: Tensor, shape: Tensor, side: int) -> Tensor:
    """For each patch (B, side**2) the thing that lies on its center, -1 for none.

    Args:
        geometry: (B, 2, 4), see `Pool`.
        shape: (B, 2), -1 where there is no second thing.
        side: patches along an edge.
    """
    line = (torch.arange(side, device=geometry.device) + 0.5) / side
    centers = torch.stack([line.repeat(side), line.repeat_interleave(side)], -1)  # (P, 2), x and y
    away = geometry[:, :, None, :2] - centers  # (B, 2, P, 2)
    inside = (away.norm(dim=-1) < 0.45 * geometry[..., 2:3]) | (away.abs().amax(-1) <= 0.5 / side)
    inside &= (shape >= 0)[..., None]
    return torch.where(inside[:, 1], 1, torch.where(inside[:, 0], 0, -1))


def patch_loss(out: Tensor, owner: Tensor, patch: Tensor, batch: dict[str, Any], side: int) -> Tensor:
    """Shape, color and geometry of the things that patches lie on.

    Args:
        out: (B, P, shapes + colors + 5) of the patch head; its last column is not read.
        owner: (B, P), -1 where a patch is background.
        patch: (B, P) numbers of the patches.
        batch: `shape` (B, 2), `color` (B, 2), `geometry` (B, 2, 4).
        side: patches along an edge.
    """
    row, at = (owner >= 0).nonzero(as_tuple=True)
    who, out, patch = owner[row, at], out[row, at], patch[row, at]
    shape, color = batch["shape"][row, who], batch["color"][row, who]
    x, y, size, angle = batch["geometry"][row, who].unbind(-1)
    kinds, tints, where = out.split([KINDS, TINTS, 5], dim=-1)
    dx, dy = x * side - (patch % side + 0.5), y * side - (patch // side + 0.5)
    target = torch.stack([dx, dy, 2 * (size / 0.3).log(), angle / 0.3], -1)
    weight = torch.ones_like(target)
    turnable = torch.tensor([s not in ROUND for s in SHAPES]).to(shape.device, non_blocking=True)
    weight[:, 3] = turnable[shape].to(weight.dtype)
    geometric = (F.smooth_l1_loss(where[:, :4], target, reduction="none") * weight).mean()
    return F.cross_entropy(kinds, shape) + 0.5 * F.cross_entropy(tints, color) + geometric


@HOOKS.register_module(name="windows_first")
class WindowsFirstHook(Hook):
    """Train on windows around one thing for a share of the steps, then on whole pictures; a function of the step.

    Args:
        share: of the steps.

    Raises:
        ValueError: a share outside 0..1.
    """

    def __init__(self, share: float = 0.5):
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: give a share of the steps between 0 and 1")
        self.share = share

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Say what the step trains on."""
        bare(runner.model).windows = runner.iter < self.share * runner.max_iters


@HOOKS.register_module(name="save_towers")
class SaveTowersHook(Hook):
    """Write the towers of a `ContrastiveModel` in half precision when training ends, without heads and optimizer.

    Args:
        filename: in the work directory; `tiny_clip(weights=PATH)` reads it.
    """

    def __init__(self, filename: str = "towers.safetensors"):
        self.filename = filename

    def after_train(self, runner: Any) -> None:
        """Write the file."""
        if is_main_process():
            model: Any = bare(runner.model)
            state = model.clip.state_dict()
            halves = {k: v.detach().half().cpu().contiguous().clone() for k, v in state.items()}
            save_file(halves, Path(runner.work_dir) / self.filename)
