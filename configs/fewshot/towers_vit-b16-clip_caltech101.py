"""Few-shot methods of 2023 to 2025 on Caltech101 with CLIP ViT-B/16, in CoOp's protocol, each with its own recipe.

Data and weights: as in vit-b16-clip_caltech101.py.
Command: python tools/fewshot.py configs/fewshot/towers_vit-b16-clip_caltech101.py --shots 16 --seeds 1 2 3 --device cuda
Recipes: the releases'. No validation set is used but by LP++ (its epoch) and ProLIP with a search. CLIP-LoRA and 2SFS say
`a photo of a {}.` on every data set; the others use the data set's own sentence or learn it.
Paper rows, 16 shots, averages over 11 data sets, not of this one: CLIP-LoRA 83.0, PromptSRC 82.9 (remembered).
Variants of the protocol: `BaseToNew` with MaPLe and PromptSRC (20 epochs, average (15, 1)), `PublicSplits` with the files of
2SFS, `OwnDraw` with the draws of CLIP-LoRA, LP++ and ProLIP; across data sets MaPLe has depth 3, 2 epochs, rate 0.0026 and
PromptSRC depth 3, 20 epochs, average (6, 10).
Differs: training views are drawn once and shared by epochs in turn (bench.views); float32 throughout.
Measured here: nothing.
"""

from xmodal.clip_tuning.clip_lora import CLIPLoRA
from xmodal.clip_tuning.maple import MaPLe
from xmodal.clip_tuning.promptsrc import PromptSRC
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.encoders.openai_weights import openai_clip
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.feature_runs import LPPlusPlusRun, ProLIPRun, TaskResRun
from xmodal.evaluation.plans import Coop11
from xmodal.evaluation.runs import ZeroShotRun
from xmodal.evaluation.tower_runs import EpochRun, StepRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [dict(type=coop_source, name="caltech101")]
bench = dict(views=20)
protocol = dict(type=Coop11)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "TaskRes": dict(type=TaskResRun, lr=2e-4, epochs=200),
    "LP++": dict(type=LPPlusPlusRun),
    "ProLIP": dict(type=ProLIPRun),
    "ProLIP (search)": dict(type=ProLIPRun, search=True),
    "CLIP-LoRA": dict(type=StepRun, model=dict(type=CLIPLoRA), steps=500),
    "2SFS": dict(type=StepRun, model=dict(type=TwoStage), steps=300),
    "MaPLe": dict(type=EpochRun, model=dict(type=MaPLe), lr=0.0035, epochs=5),
    "PromptSRC": dict(type=EpochRun, model=dict(type=PromptSRC), lr=0.0025, epochs=50, average=(30, 30)),
    "IVLP": dict(
        type=EpochRun,
        model=dict(type=PromptSRC, text_weight=0.0, image_weight=0.0, logit_weight=0.0),
        lr=0.0025,
        epochs=5,
    ),
}
