"""CoOp and CoCoOp from one data set to others with other classes: trained on Caltech101, tested on DTD, EuroSAT, pets.

The papers train on ImageNet and test on ten sets; name other ones below.
Data: as in vit-b16-clip_caltech101.py; python tools/data/check_fewshot.py data caltech101 dtd eurosat oxford_pets
Command: python tools/fewshot.py configs/fewshot/coop_vit-b16-clip_caltech101_cross.py --shots 16 --seeds 1 2 3 --device cuda
Recipe: CoCoOp's vit_b16_c4_ep10_batch1_ctxv1 for both heads' words.
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.plans import CrossDataset
from xmodal.evaluation.runs import PromptRun, ZeroShotRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [dict(type=coop_source, name=_name) for _name in ("caltech101", "dtd", "eurosat", "oxford_pets")]
protocol = dict(type=CrossDataset)
_words = dict(init_words="a photo of a")
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "CoOp": dict(type=PromptRun, head=dict(type=CoOpHead, **_words), epochs=200),
    "CoCoOp": dict(type=PromptRun, head=dict(type=CoCoOpHead, chunk=100, **_words), epochs=10, batch_size=1),
}
