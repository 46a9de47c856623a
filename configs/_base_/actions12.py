"""The built-in set of 12 actions (approach and rotation among them), the bystander drifts.

Make it once: python tools/data/make_actions.py demo_out/actions12 --set hard --moving --train 1200 --val 180 --test 300
"""

from mmengine.config import read_base

with read_base():
    from .actions8 import *

for _loader, _split in ((train_dataloader, "train"), (val_dataloader, "val"), (test_dataloader, "test")):
    _loader.dataset.update(annotation=f"demo_out/actions12/{_split}.txt", classes="demo_out/actions12/classes.txt")
