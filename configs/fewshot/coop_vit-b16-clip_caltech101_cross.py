"""CoOp and CoCoOp from one data set to others with other classes: trained on Caltech101, tested on DTD, EuroSAT, pets.

The papers train on ImageNet and test on ten sets; name other ones below.
Data: as in vit-b16-clip_caltech101.py; python tools/data/check_fewshot.py data caltech101 dtd eurosat oxford_pets
Command: python tools/fewshot.py configs/fewshot/coop_vit-b16-clip_caltech101_cross.py --shots 16 --seeds 1 2 3 --device cuda
Recipe: CoCoOp's vit_b16_c4_ep10_batch1_ctxv1 for both heads' words.
Measured here: nothing; neither the data nor the weights can be had where this was written.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.evaluation.coop_data import read_coop
from xmodal.evaluation.images import ListedImages
from xmodal.evaluation.plans import CrossDataset
from xmodal.evaluation.runs import PromptRun, ZeroShotRun

clip = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = []
for _name, _template in (
    ("caltech101", "a photo of a {}."),
    ("dtd", "{} texture."),
    ("eurosat", "a centered satellite photo of {}."),
    ("oxford_pets", "a photo of a {}, a type of pet."),
):
    _images = dict(type=ListedImages, splits=dict(type=read_coop, root="data", name=_name))
    sources.append(
        dict(
            name=_name,
            train=dict(**_images, split="train", augment=True),
            plain=dict(**_images, split="train"),
            val=dict(**_images, split="val"),
            test=dict(**_images, split="test"),
            templates=(_template,),
        )
    )
protocol = dict(type=CrossDataset)
_words = dict(init_words="a photo of a")
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "CoOp": dict(type=PromptRun, head=dict(type=CoOpHead, **_words), epochs=200),
    "CoCoOp": dict(type=PromptRun, head=dict(type=CoCoOpHead, chunk=100, **_words), epochs=10, batch_size=1),
}
