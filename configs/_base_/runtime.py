"""What all recipes share. Everything here may be left out or set again in a config; `xmodal/engine/config.py` fills in the rest."""

from xmodal.engine.checkpoint import CheckpointHook
from xmodal.engine.progress import ProgressHook
from xmodal.engine.report import ReportHook
from xmodal.metrics import Accuracy

randomness = dict(seed=0)
val_evaluator = dict(type=Accuracy)
test_evaluator = dict(type=Accuracy)
default_hooks = dict(
    progress=dict(type=ProgressHook, interval=50),
    checkpoint=dict(type=CheckpointHook, every_epochs=1, every_steps=None, best="top1"),
    report=dict(type=ReportHook),
)
