"""Detection with V-DETR's decoder: on EPCL tokens, or on 3DETR's encoder.

Paper: V-DETR (arXiv 2308.04409).
"""

from typing import Any

from pointcloud import task
from pointcloud.detection import Detector, EPCLBackbone, with_options
from pointcloud.detr_encoder import DETREncoder
from pointcloud.vertex_criterion import VertexCriterion
from pointcloud.vertex_decoder import VertexBoxDecoder
from xmodal.registry import method
from xmodal.structures import Encoder

PAPER = dict(
    slot="encoder+head",
    paper="V-DETR: DETR with Vertex Relative Position Encoding for 3D Object Detection, arXiv 2308.04409",
    parity=("vdetr",),
)


class VertexDetector(Detector):
    """A backbone, V-DETR's decoder and its losses; arguments as `Detector`, without votes.

    Raises:
        ValueError: `votes` or `query_points`: its queries stand where its own proposals are best.
    """

    decoder_type = VertexBoxDecoder
    criterion_type = VertexCriterion

    def __init__(self, *args: Any, votes: bool = False, query_points: dict | None = None, **kwargs: Any):
        if votes or query_points is not None:
            raise ValueError("V-DETR chooses its queries among its proposals: leave out votes and query_points")
        super().__init__(*args, **kwargs)
        self.official = ""  # not 3DETR's, whatever the backbone


@method(task.NETWORKS, "vdetr3d_epcl", params="tokenizer, task tokens, V-DETR's decoder", **PAPER)
def vdetr3d_epcl(encoder: Encoder, num_classes: int, backbone: dict | None = None, **options: Any) -> VertexDetector:
    """V-DETR's decoder on EPCL tokens; options are those of `Detector`, `backbone` those of `EPCLBackbone`."""
    tokens = with_options(EPCLBackbone, {"num_task_tokens": num_classes + 1, **(backbone or {})}, encoder=encoder)
    return with_options(VertexDetector, options, backbone=tokens, num_classes=num_classes)


@method(task.NETWORKS, "vdetr3d", params="all", families=("none",), **PAPER)
def vdetr3d(encoder: None, num_classes: int, backbone: dict | None = None, **options: Any) -> VertexDetector:
    """V-DETR's decoder on 3DETR's encoder; options are those of `Detector`, `backbone` those of `DETREncoder`."""
    points = with_options(DETREncoder, backbone or {})
    return with_options(VertexDetector, options, backbone=points, num_classes=num_classes)
