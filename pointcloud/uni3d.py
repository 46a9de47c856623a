"""Uni3D: colored clouds through an EVA vision transformer into the feature space of a CLIP.

Paper: Uni3D (arXiv 2310.06773). Groups of points become tokens, the transformer is one of timm's EVA models, and the
class token is projected to CLIP's width.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud.task_token import PositionMLP
from pointcloud.tokenizer import PointTokenizer
from xmodal.encoders.clip import LOGIT_SCALE
from xmodal.encoders.files import load_exactly, seeded, unfilled
from xmodal.encoders.keys import base_state, put_under, under
from xmodal.encoders.timm_keys import from_plain, to_plain
from xmodal.encoders.timm_parts import describe
from xmodal.encoders.timm_weights import create
from xmodal.encoders.vit import VisionTransformer
from xmodal.losses import clip_loss
from xmodal.official.names import rename
from xmodal.registry import ENCODERS
from xmodal.structures import Grid
from xmodal.torch_files import read_weights

SIZES = {
    "tiny": "eva02_tiny_patch14_224",
    "small": "eva02_small_patch14_224",
    "base": "eva02_base_patch14_448",
    "large": "eva02_large_patch14_448",
    "giant": "eva_giant_patch14_560",
}
WITH_HEAD = ("base", "large", "giant")  # released files of these keep timm's classifier of 1000 classes
GRAY = 0.4  # the color of clouds that have none
NAMES = (  # official, ours; what is left belongs to timm's model
    ("logit_scale", "logit_scale"),
    ("point_encoder.cls_token", "cloud_token"),
    ("point_encoder.cls_pos", "cloud_position"),
    ("point_encoder.encoder.{x}", "tokenizer.encoder.{x}"),
    ("point_encoder.encoder2trans.{x}", "widen.{x}"),
    ("point_encoder.pos_embed.{x}", "position.{x}"),
    ("point_encoder.trans2embed.{x}", "proj.{x}"),
    ("point_encoder.visual.head.{x}", "image_head.{x}"),
    ("point_encoder.visual.{x}", "visual.{x}"),
)
OWN = tuple(ours.removesuffix("{x}") for _, ours in NAMES[:-1])


class Uni3D(VisionTransformer):
    """An EVA vision transformer whose tokens are groups of colored points.

    What the image model had for pixels (patch projection, class token, positions, classifier) and the scale of the
    similarities stay among the weights, unused, because released files hold them.

    Args:
        num_groups: G point tokens.
        group_size: K members of a group.
        token_dim: width of the tokens before they are widened to the transformer's.
        out_dim: width of the feature.
        image_classes: rows of the image model's classifier; 0 for none.
        **tower: of `VisionTransformer`; pooling and rotary positions are Uni3D's (class token, none).
    """

    def __init__(
        self,
        num_groups: int = 512,
        group_size: int = 64,
        token_dim: int = 512,
        out_dim: int = 1024,
        image_classes: int = 0,
        **tower: Any,
    ):
        ways = dict(pool="token", class_token=True, fc_norm=True, rotary=None, out_bias=True)
        super().__init__(**{**tower, **ways, "out_dim": out_dim})
        dim = self.dim
        self.tokenizer = PointTokenizer(num_groups, group_size, token_dim, feat_dim=3, skip_near_origin=True)
        self.widen, self.position = nn.Linear(token_dim, dim), PositionMLP(dim)
        self.cloud_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cloud_position = nn.Parameter(torch.randn(1, 1, dim))
        self.image_head = nn.Linear(dim, image_classes) if image_classes else None
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
        for key, weight in self.named_parameters():
            if key.startswith(("patch_embed.", "cls_token", "pos_embed", "image_head.", "logit_scale")):
                weight.requires_grad_(False)

    def embed(  # type: ignore[override]
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None, **aside: Any
    ) -> tuple[Tensor, Grid | None]:
        """Make tokens of clouds.

        Args:
            coord: (B, P, 3), centered, unit radius.
            feat: red, green and blue (B, P, 3) in 0..1; None for gray.
            lengths: points of each cloud (B,).
            **aside: further entries of a batch, not looked at.

        Returns:
            Tokens (B, 1 + G, D), and None in the place of a grid.
        """
        feat = torch.full_like(coord, GRAY) if feat is None else feat
        tokens, centers = self.tokenizer(coord, feat, lengths)
        tokens = self.widen(tokens) + self.position(centers)
        first = (self.cloud_token + self.cloud_position).expand(len(tokens), -1, -1)
        return self.norm_pre(self.embedded(torch.cat([first, tokens], 1), None), None), None

    def forward(self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Map clouds to features (B, D_out); arguments are those of `embed`."""
        tokens, grid = self.embed(coord, feat, lengths)
        return self.pool(self.norm(self.forward_blocks(tokens, grid), grid), grid)

    def library_state(self) -> dict[str, Tensor]:
        """Return the weights under the names of released files, without adapters."""
        state = base_state(self.state_dict())
        own = {key: value for key, value in state.items() if key.startswith(OWN)}
        image = from_plain({key: value for key, value in state.items() if key not in own}, self.layout)
        return rename({**own, **put_under(image, "visual.")}, [(ours, theirs) for theirs, ours in NAMES])


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a released file to those of `Uni3D`.

    Raises:
        ValueError: a name that no released file has.
    """
    found = rename(state, NAMES)
    return {**{k: v for k, v in found.items() if not k.startswith("visual.")}, **to_plain(under(found, "visual."))}


def read_released(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a released file: `model.pt` with an entry `module`, or safetensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file.
    """
    content = read_weights(path)
    for holder in ("module", "state_dict"):
        content = content[holder] if isinstance(content, dict) and isinstance(content.get(holder), dict) else content
    if not isinstance(content, dict) or not any("point_encoder.cls_pos" in key for key in content):
        raise ValueError(f"{path} is no file of Uni3D: it has no weights called point_encoder...")
    return {key.removeprefix("module."): value for key, value in content.items()}


def sizes_of(state: dict[str, Tensor], path: str | Path) -> dict[str, int]:
    """Read the sizes that are not the transformer's from a released file.

    Raises:
        ValueError: weights that say them are missing.
    """
    try:
        head = state.get("point_encoder.visual.head.bias", torch.empty(0))
        return dict(
            token_dim=state["point_encoder.encoder2trans.weight"].shape[1],
            out_dim=state["point_encoder.trans2embed.weight"].shape[0],
            image_classes=len(head),
        )
    except KeyError as error:
        raise ValueError(f"{path} is not whole: it lacks {error}") from error


def check_size(state: dict[str, Tensor], tower: dict[str, Any], size: str, path: str | Path) -> None:
    """Refuse a file of another size than was asked for.

    Raises:
        ValueError: naming both.
    """
    blocks = {key.split(".")[3] for key in state if key.startswith("point_encoder.visual.blocks.")}
    found, wanted = (state["point_encoder.cls_pos"].shape[-1], len(blocks)), (tower["dim"], tower["depth"])
    if found != wanted:
        raise ValueError(
            f"{path} holds a Uni3D of width {found[0]} with {found[1]} blocks, and size {size!r} has width {wanted[0]} "
            f"with {wanted[1]}: choose the file's size of {', '.join(SIZES)}"
        )


@ENCODERS.register_module(name="uni3d")
def uni3d(
    size: str = "base",
    weights: str = "random",
    num_groups: int = 512,
    group_size: int = 64,
    drop_path: float = 0.0,
    seed: int = 0,
    arch: dict | None = None,
    **sizes: int,
) -> Uni3D:
    """Build Uni3D's encoder of clouds.

    Args:
        size: `tiny`, `small`, `base`, `large` or `giant`.
        weights: a released file (`model.pt`), or `random`.
        num_groups: point tokens.
        group_size: points of a token.
        drop_path: stochastic depth of the last block, in training only.
        seed: of random weights.
        arch: arguments of timm's model that differ from the size's, such as `dict(depth=2)`.
        **sizes: `token_dim`, `out_dim` and `image_classes` of `Uni3D`; those of a file are in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown size, a file of another kind or size.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r}: Uni3D has {', '.join(SIZES)}")
    tower = describe(unfilled(lambda: create(SIZES[size], None, dict(arch or {}))), SIZES[size])
    state = {} if weights == "random" else read_released(weights)
    told = sizes_of(state, weights) if state else {"image_classes": 1000 * (size in WITH_HEAD)}
    options = {**tower, **told, **sizes, "num_groups": num_groups, "group_size": group_size, "drop_path": drop_path}
    if not state:
        options["name"] = f"uni3d-{size}/random-{seed}"
        return seeded(seed, lambda: Uni3D(**options)).eval()
    check_size(state, tower, size, weights)
    options["name"] = f"uni3d-{size}/{Path(weights).stem}"
    return load_exactly(unfilled(lambda: Uni3D(**options)), from_released(state), str(weights))


def uni3d_loss(
    cloud: Tensor, text: Tensor, image: Tensor, logit_scale: Tensor, has_image: Tensor | None = None
) -> dict[str, Tensor]:
    """Contrast of clouds with their texts, plus that with their images.

    Args:
        cloud: (B, D) features.
        text: (B, D).
        image: (B, D).
        logit_scale: logarithm of the factor on the similarities.
        has_image: (B,) samples that have an image; the others' stand-ins are negatives alone. None for all.

    Returns:
        `loss`, and its parts `text` and `image`.
    """
    cloud, text, image = (F.normalize(x, dim=-1) for x in (cloud, text, image))
    parts = {
        "text": clip_loss(cloud, text, logit_scale)["loss"],
        "image": clip_loss(cloud, image, logit_scale, counted=has_image)["loss"],
    }
    return {"loss": parts["text"] + parts["image"], **parts}
