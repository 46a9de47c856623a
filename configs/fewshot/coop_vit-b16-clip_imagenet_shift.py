"""CoOp and CoCoOp from ImageNet to its shifted test sets (V2, Sketch, A, R), 16 shots, CLIP ViT-B/16.

Data: data/imagenet, imagenetv2, imagenet-sketch, imagenet-adversarial, imagenet-rendition;
python tools/data/check_fewshot.py data imagenet imagenetv2 imagenet_sketch imagenet_a imagenet_r
Command: python tools/fewshot.py configs/fewshot/coop_vit-b16-clip_imagenet_shift.py --shots 16 --seeds 1 2 3 --device cuda
Recipe: CoOp's vit_b16_ep50 with 4 words, CoCoOp's vit_b16_c4_ep10_batch1_ctxv1. Reference (CoOp, remembered from the paper,
M=4): 71.73 on ImageNet; 64.56 / 47.89 / 49.93 / 75.14.
Differs: training views are drawn once and shared by epochs in turn (bench.views).
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.folders import shift_source
from xmodal.evaluation.plans import DomainShift
from xmodal.evaluation.runs import PromptRun, ZeroShotRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
_shifts = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
sources = [dict(type=coop_source, name="imagenet"), *(dict(type=shift_source, name=_name) for _name in _shifts)]
bench = dict(views=10)
protocol = dict(type=DomainShift)
_words = dict(init_words="a photo of a", chunk=100)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "CoOp": dict(type=PromptRun, head=dict(type=CoOpHead, **_words), epochs=50),
    "CoCoOp": dict(type=PromptRun, head=dict(type=CoCoOpHead, **_words), epochs=10, batch_size=1),
}
