"""3DETR's schedule: AdamW 5e-4, weight decay 0.1 on everything, warm-up 9 epochs, cosine to 1e-6 over 1080 epochs."""

from torch.optim import AdamW

from xmodal.engine.schedule import CosineSchedule

optim_wrapper = dict(optimizer=dict(type=AdamW, lr=5e-4, weight_decay=0.1), clip_grad=dict(max_norm=0.1))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=9, final=1e-6 / 5e-4)
train_cfg = dict(max_epochs=1080, val_interval=20)
