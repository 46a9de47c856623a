"""ELEVATER's protocol (arXiv 2204.08790) on the five generated data sets, with the tiny CLIP.

Data: python tools/elevater.py draw DATA --train 400 --test 200
Command: python tools/elevater.py run DATA OUT --config configs/elevater/tiny-clip_drawn.py
Measured here: zero-shot 68.2, linear probe 65.8 (best epoch on test 74.3): means of the five sets; probe: seeds 0-2.
"""

from xmodal.encoders.tiny import tiny_clip

encoder = dict(type=tiny_clip)
datasets = ["drawn-shapes", "drawn-colors", "drawn-digits", "drawn-places", "drawn-scenes"]
methods = ["zero-shot", "linear-probe", "lora", "kadaptation", "ssf"]
shots = [5]
seeds = [0]
