"""Seed, metrics and hooks of all recipes; any of it may be left out or set again in a config.

A config has these keys (what is left out is filled in by `xmodal/engine/config.py`; its own variables begin with _):
    model             dict(type=TransferModel, ...)
    train_dataloader  dict(batch_size=, num_workers=, dataset=dict(type=, ...)), per process; also val_ and test_dataloader
    optim_wrapper     dict(optimizer=dict(type=AdamW, lr=, weight_decay=), paramwise_cfg=dict(no_decay=[".bias", "norm"],
                      lr_mult={"encoder": 0.05}), clip_grad=dict(max_norm=1.0), amp="bf16")
    param_scheduler   dict(type=CosineSchedule, warmup_epochs=2), or warmup_steps=; ConstantSchedule
    train_cfg         dict(max_epochs=12, val_interval=5, batch_split=1), or max_steps= with val_interval in steps
    default_hooks     as below; ema=dict(type=EMAHook, decay=0.9998) adds an average, None leaves a hook out
"""

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
