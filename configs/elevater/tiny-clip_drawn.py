# ELEVATER's protocol on the five generated data sets: python tools/elevater.py run DATA OUT --config THIS
from xmodal.encoders.tiny import tiny_clip

encoder = dict(type=tiny_clip)
datasets = ["drawn-shapes", "drawn-colors", "drawn-digits", "drawn-places", "drawn-scenes"]
methods = ["zero-shot", "linear-probe", "lora", "kadaptation", "ssf"]
shots = [5]
seeds = [0]
