"""DPLCLIP (amortised prompts) on PACS under DomainBed's protocol, sketches left out, CLIP ViT-B/16.

Set `held_out` to each domain in turn (A, C, P, S); python tools/data/check_fewshot.py data PACS
Command: python tools/fewshot.py configs/fewshot/dplclip_vit-b16-clip_pacs.py --seeds 0 1 2 --device cuda
Recipe: DPLCLIP's defaults: 16 tokens, width 512, depth 3, dropout 0.1, SGD 1e-3 with momentum 0.1, 32 of each domain, 5001
steps, the best of every 300 by the training domains' held-out fifth; the second method makes 20 draws of hyperparameters and
chooses among them in the same way, and says what the best on the domain left out would have claimed.
Reference: mean over DomainBed's four sets 79.3 (its README), zero-shot CLIP 73.7.
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.dplclip import DPLCLIPHead
from xmodal.evaluation.folders import domain_source
from xmodal.evaluation.domain_search import DomainSearchRun
from xmodal.evaluation.image_runs import DomainRun
from xmodal.evaluation.plans import DomainBed
from xmodal.evaluation.runs import ZeroShotRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [dict(type=domain_source, dataset="PACS", domain=_domain) for _domain in ("A", "C", "P", "S")]
protocol = dict(type=DomainBed, held_out="S")
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun, templates=("a photo of a {}",)),
    "DPLCLIP": dict(type=DomainRun, head=dict(type=DPLCLIPHead)),
    "DPLCLIP, 20 draws": dict(type=DomainSearchRun, head=dict(type=DPLCLIPHead)),
}
