"""Zero-shot classification of colored clouds with Uni3D-B: OpenShape's ModelNet40, ScanObjectNN and Objaverse-LVIS.

Paper row: Uni3D-B (arXiv 2310.06773, README): 86.3 ModelNet40, 63.8 ScanObjectNN, 51.7 Objaverse-LVIS, quoted as published.
Data: data/openshape/{modelnet40,scanobjectnn,objaverse_lvis} as Uni3D's release lays them out.
Weights: uni3d-b's model.pt at the path below, and the text tower of open_clip's EVA02-E-14-plus (its file is 20 GB; only the
text tower is built). Other sizes: encoder visual size=large, giant, ... with their files.
Command: python tools/fewshot.py configs/fewshot/uni3d-b_10k_openshape.py --device cuda
Recipe: the release's 64 templates; all points, no augmentation.
Measured here: nothing.
"""

from pointcloud.datasets.openshape import (
    AS_WRITTEN,
    TEMPLATES,
    ObjaverseLVIS,
    OpenShapeModelNet40,
    OpenShapeScanObjectNN,
)
from pointcloud.transforms import UnitBall
from pointcloud.uni3d import uni3d
from xmodal.encoders.openclip_weights import open_clip_beside
from xmodal.evaluation.plans import ZeroShot
from xmodal.evaluation.runs import ZeroShotRun

encoder = dict(
    type=open_clip_beside,
    visual=dict(type=uni3d, size="base", weights="data/uni3d/uni3d-b.pt"),
    name="EVA02-E-14-plus",
    pretrained="laion2b_s9b_b144k",
)


def _source(kind, folder, templates):
    clouds = dict(type=kind, root=f"data/openshape/{folder}", transforms=[dict(type=UnitBall)], test_mode=True)
    return dict(name=folder, train=clouds, val=clouds, templates=templates)


sources = [
    _source(OpenShapeModelNet40, "modelnet40", TEMPLATES),
    _source(OpenShapeScanObjectNN, "scanobjectnn", TEMPLATES),
    _source(ObjaverseLVIS, "objaverse_lvis", AS_WRITTEN),
]
bench = dict(batch_size=16)
protocol = dict(type=ZeroShot)
methods = {"zero-shot Uni3D": dict(type=ZeroShotRun)}
