"""CaFo on Caltech101: caches of CLIP ViT-B/16 and of DINO ViT-S/16, synthetic shots, sentences of a language model.

Data: as in vit-b16-clip_caltech101.py; data/dalle_caltech-101/<class>/*.jpg (synthetic images, a folder per class) and
data/gpt3_caltech101.json ({class: [sentence, ...]}), both from the CaFo repository.
Command: python tools/fewshot.py configs/fewshot/cafo_vit-b16-clip_caltech101.py --shots 1 2 4 8 16
Recipe: CaFo's caltech101 settings (its log with two RN50: 91.85 / 92.37 / 93.14 / 93.83 / 94.60).
Differs: timm has no DINO ResNet-50, so the second encoder is DINO's ViT-S/16, with its own pixel statistics; the epoch
is chosen on the validation set. `official=True` gives the release's rate, which rises again.
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.folders import folder_source
from xmodal.evaluation.plans import Tip
from xmodal.evaluation.runs import CaFoRun, ZeroShotRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [
    dict(type=coop_source, name="caltech101", scale=(0.5, 1.0)),
    dict(type=folder_source, name="dalle", folder="data/dalle_caltech-101", scale=(0.5, 1.0)),
]
bench = dict(second=dict(type=timm_encoder, name="vit_small_patch16_224.dino"))
protocol = dict(type=Tip)
_recipe = dict(
    type=CaFoRun,
    synthetic="dalle",
    synthetic_shots=1,
    sentences="data/gpt3_caltech101.json",
    scale=(12.0, 5.0),
    alpha=1.0,
)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "CaFo, keys as cached": dict(**_recipe, finetune=False),
    "CaFo": dict(**_recipe),
}
