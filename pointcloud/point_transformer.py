"""Point transformers from their released files, and segmentation on what they give: linear or decoder probe, LoRA.

Papers: Point Transformer V3 (arXiv 2312.10035), Sonata (arXiv 2503.16429), Concerto (arXiv 2510.23607).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pointcloud import task
from pointcloud.ptv3 import PointDecoder, PointTransformer
from pointcloud.segmenter import Segmenter
from pointcloud.serialization import ORDERS
from xmodal.encoders.files import seeded
from xmodal.registry import ENCODERS, check_arguments, method
from xmodal.torch_files import read_weights

# what constructors of released files say that does not change the outputs here
SILENT = {
    "attn_drop", "cls_mode", "enable_flash", "enc_mode", "freeze_encoder", "pdnorm_adaptive", "pdnorm_affine",
    "pdnorm_bn", "pdnorm_conditions", "pdnorm_decouple", "pdnorm_ln", "proj_drop", "qk_scale", "shuffle_orders",
    "traceable", "upcast_attention", "upcast_softmax",
}  # fmt: skip
PREFIXES = ("module.student.backbone.", "module.backbone.", "student.backbone.", "backbone.", "module.")


def read_released(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a released file: the arguments of its network, empty where it has none, and its weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file.
    """
    found = read_weights(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no file of a point transformer: it needs `state_dict`")
    state = found.get("state_dict", found)
    for prefix in PREFIXES:
        if any(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            break
    if not any(k.startswith("enc.enc0.") for k in state):
        raise ValueError(f"{path} is no file of a point transformer: it has no weights called enc.enc0...")
    config = {("rpe" if k == "enable_rpe" else k): v for k, v in found.get("config", {}).items() if k not in SILENT}
    if found.get("config", {}).get("enc_mode") or found.get("config", {}).get("cls_mode"):
        config = {k: v for k, v in config.items() if not k.startswith("dec_")}
    return config, state


def fit(model: PointTransformer, state: dict[str, Tensor], path: str | Path) -> None:
    """Load weights into a network whose sizes they must have.

    Raises:
        ValueError: naming weights that are missing, too many, or of another size.
    """
    own = model.state_dict()
    if model.dec is None:
        state = {k: v for k, v in state.items() if not k.startswith("dec.")}
    for key, value in state.items():  # spconv 1: (kx, ky, kz, C, D)
        if key in own and value.ndim == 5 and value.shape != own[key].shape:
            turned = value.permute(4, 0, 1, 2, 3)
            state[key] = turned if turned.shape == own[key].shape else value
    wrong = sorted(own.keys() ^ state.keys())
    if wrong:
        raise ValueError(f"{path} does not fit this network: {', '.join(wrong[:4])} is only on one side")
    wrong = [f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}" for k, v in state.items() if v.shape != own[k].shape]
    if wrong:
        raise ValueError(f"{path} has other sizes than this network: {', '.join(wrong[:4])}")
    model.load_state_dict(state)


@ENCODERS.register_module(name="point_transformer")
def point_transformer(
    weights: str = "random", decoder: bool = False, seed: int = 0, **options: Any
) -> PointTransformer:
    """Build a point transformer.

    Args:
        weights: a released file of PTv3, Sonata or Concerto (`.pth` or `.safetensors`), or `random`.
        decoder: take the decoder too, where the file has one.
        seed: of random weights.
        **options: of `PointTransformer`, over those in the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind or size, an unknown option.
    """
    config, state = ({}, None) if weights == "random" else read_released(weights)
    if state is not None:
        config["mask_token"] = "embedding.mask_token" in state
        config["first_version"] = "embedding.stem.conv.weight" in state
    options = {**config, **options}
    if not decoder and state is not None:
        options = {k: v for k, v in options.items() if not k.startswith("dec_")}
    options.setdefault("order", ORDERS)
    check_arguments(PointTransformer, options)
    model = seeded(seed, lambda: PointTransformer(**options))
    if state is None:
        model.name += f"/random-{seed}"
    else:
        fit(model, state, weights)
    return model


@method(
    task.NETWORKS,
    "point_probe",
    slot="encoder+head",
    paper="Sonata: Self-Supervised Learning of Reliable Point Representations (arXiv 2503.16429)",
    params="D*K + K, D the sum of the levels' widths; with a decoder its weights",
    parity=("ptv3",),
    families=("none",),
)
class PointProbe(Segmenter):
    """A linear classifier on the features of all levels of a frozen point transformer, or on a trained decoder.

    Points of one voxel share its features; a voxel takes those of its first point. The features of a point are place
    (meters, middle of the cloud at 0 and floor at 0), color and normal; what the cloud does not have is 0.

    Args:
        encoder: a `PointTransformer`; its decoder's features are taken where it has one.
        num_classes: K.
        voxel: edge, meters.
        decoder: arguments of a `PointDecoder` that is trained; None for none.
        use_coord: the features of a point begin with its place (not so in PTv3's released files).
        **options: of `Segmenter`.

    Raises:
        ValueError: a decoder where the encoder has its own.
    """

    def __init__(
        self,
        encoder: PointTransformer,
        num_classes: int,
        voxel: float = 0.02,
        decoder: dict | None = None,
        use_coord: bool = True,
        **options: Any,
    ):
        super().__init__(num_classes, **options)
        if decoder is not None and encoder.dec is not None:
            raise ValueError("the encoder has a decoder of its own: leave out `decoder` of one of the two")
        self.encoder, self.voxel, self.use_coord = encoder, voxel, use_coord
        self.decoder = None if decoder is None else PointDecoder(encoder.dims, **decoder)
        width = sum(encoder.dims) if encoder.dec is None else encoder.out_dim
        self.head = nn.Linear(width if self.decoder is None else self.decoder.out_dim, num_classes)

    def forward(self, coord: Tensor, feat: Tensor | None, sizes: list[int]) -> Tensor:
        """Classify packed points (n, 3) with features (n, C): logits (n, K)."""
        cloud = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(coord.device, non_blocking=True)
        centered = torch.cat([self.center(part) for part in coord.split(sizes)])
        lowest = torch.stack([part.amin(0) for part in centered.split(sizes)])
        grid = torch.floor((centered - lowest[cloud]) / self.voxel).long()
        cells, voxel = torch.unique(torch.cat([cloud[:, None], grid], 1), dim=0, return_inverse=True)
        order = torch.arange(len(coord), device=coord.device)
        first = order.new_full((len(cells),), len(order)).scatter_reduce(0, voxel, order, "amin")
        x = torch.cat([part for part in (centered if self.use_coord else None, feat) if part is not None], 1)
        wanted = self.encoder.embedding.in_dim
        x = nn.functional.pad(x, (0, wanted - x.shape[1]))[first]
        return self.head(self.read(centered[first], cells[:, 1:], cells[:, 0], x))[voxel]

    def read(self, *voxels: Tensor) -> Tensor:
        """Features of voxels (N, D)."""
        if self.decoder is not None:
            return self.decoder(*self.encoder.encode(*voxels))[0]
        return self.encoder.all_levels(*voxels) if self.encoder.dec is None else self.encoder(*voxels)[0]

    @staticmethod
    def center(coord: Tensor) -> Tensor:
        """Move the middle of the extent to x = y = 0 and the lowest point to z = 0."""
        low, high = coord.amin(0), coord.amax(0)
        return coord - torch.stack([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
