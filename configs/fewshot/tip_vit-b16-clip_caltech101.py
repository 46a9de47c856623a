"""Tip-Adapter and Tip-Adapter-F under their own protocol on Caltech101, with CLIP ViT-B/16.

Data and weights: as in vit-b16-clip_caltech101.py.
Command: python tools/fewshot.py configs/fewshot/tip_vit-b16-clip_caltech101.py
Recipe: Tip-Adapter's caltech101.yaml. Reference with RN50 (its log): zero-shot 85.92; 16 shots 90.18, F 92.86.
Differs: the epoch of F is chosen on the validation set; the release takes the best on the test set
(`select_on="test"` with --allow-test-selection does so and says it).
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.plans import Tip
from xmodal.evaluation.runs import CacheRun, ZeroShotRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [
    dict(type=coop_source, name="caltech101", scale=(0.5, 1.0)),
]
protocol = dict(type=Tip)
_recipe = dict(type=CacheRun, scale=(12.0, 5.0), beta=1.0, alpha=3.0)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "Tip-Adapter": dict(**_recipe),
    "Tip-Adapter-F": dict(**_recipe, finetune=True),
}
