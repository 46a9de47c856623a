"""ELEVATER (arXiv 2204.08790): CLIP ViT-B/32 on the 20 data sets, zero-shot, linear probe at 5, 20, 50 and all shots.

Data: the benchmark's, see `tools/elevater.py check DATA`; OpenAI's file under weights/
Command: python tools/elevater.py run DATA OUT --config configs/elevater/vit-b32-clip_20.py
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.evaluation.elevater import Elevater

encoder = dict(type=openai_clip, path="weights/ViT-B-32.pt")
protocol = dict(type=Elevater)
methods = ["zero-shot", "linear-probe"]
shots = [5, 20, 50, None]
seeds = [0, 1, 2]
