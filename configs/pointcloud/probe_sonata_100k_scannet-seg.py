"""Linear probe on all levels of frozen Sonata or Concerto, ScanNet v2 segmentation, 100,000 points.

Paper row: Sonata (arXiv 2503.16429) 72.5 mIoU, Concerto (arXiv 2510.23607) 77.3, linear probes on the validation scenes, quoted as published.
Recipe: ours, shorter: no mixing of scenes, no test-time variants; the paper trains 800 epochs and sums 13 variants. Normals are zeros.
Concerto: model.encoder.weights=concerto_base.pth; sizes come from the file.
Command: python tools/train.py configs/pointcloud/probe_sonata_100k_scannet-seg.py --cfg-options model.encoder.weights=sonata.pth
Variants: --cfg-options variant=decoder trains a decoder on the frozen levels, variant=lora LoRA of rank 8 on queries, keys and values
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.scannet_probe import *
