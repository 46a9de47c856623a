"""The built-in set of 8 actions in time-reversed pairs.

Make it once: python tools/data/make_actions.py demo_out/actions8
"""

from mmengine.config import read_base

with read_base():
    from .actions import *

for _loader, _split in ((train_dataloader, "train"), (val_dataloader, "val"), (test_dataloader, "test")):
    _loader.dataset.update(annotation=f"demo_out/actions8/{_split}.txt", classes="demo_out/actions8/classes.txt")
