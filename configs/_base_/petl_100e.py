"""The recipe that NOAH, Convpass and FacT share: AdamW, 100 epochs of batch 64, 10 of them warm-up, cosine to 1 %.

Differs from the released code: rates move every step instead of every epoch, and the warm-up begins at 0.
"""

from torch.optim import AdamW

from xmodal.engine.schedule import CosineSchedule

optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=10, final=0.01)
train_cfg = dict(max_epochs=100, val_interval=10)
