"""V-JEPA 2's frozen evaluation: an attentive probe of depth 4 and 16 heads, a grid of 20 rates and decays, chosen on data
that is not the test set.

AdamW, decay on every weight, a cosine to 0 without warm-up whose step 1 comes before the first batch, 20 epochs. Here the
choice among the 20 is made on a tenth of the training data; the release takes the best of them on the validation set.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from video.attentive_probe import AttentiveProbe
from xmodal.encoders.vjepa2_weights import vjepa2_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

with read_base():
    from .runtime import *

model = dict(
    type=TransferModel,
    encoder=dict(type=vjepa2_encoder, weights="data/vjepa2/vitl.pt", size="large"),
    reader=dict(type=AttentiveProbe, depth=4, num_heads=16, segments=2),
    head=dict(type=ClassificationHead, num_classes=174, init_std=None),
)
probes = dict(lr=[5e-3, 3e-3, 1e-3, 3e-4, 1e-4], weight_decay=[0.01, 0.1, 0.4, 0.8], holdout=0.1)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.01))
param_scheduler = dict(type=CosineSchedule, ahead=1)
train_cfg = dict(max_epochs=20)
