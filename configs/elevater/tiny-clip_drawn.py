"""ELEVATER's protocol (arXiv 2204.08790) on five data sets that are here: digits and generated worlds, with the tiny CLIP.

Data: python tools/elevater.py draw DATA --train 400 --test 200
Command: python tools/elevater.py run DATA OUT --config configs/elevater/tiny-clip_drawn.py
Measured here: the tables of docs/elevater.md.
"""

from xmodal.encoders.tiny import tiny_clip
from xmodal.evaluation.elevater import Elevater

encoder = dict(type=tiny_clip)
sources = ["sklearn-digits", "drawn-colors", "drawn-places", "drawn-scenes", "drawn-shapes"]
protocol = dict(type=Elevater)
methods = ["zero-shot", "linear-probe", "lora", "kadaptation", "ssf"]
shots = [5]
seeds = [0]
