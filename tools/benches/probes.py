"""Training steps of one probe and of V-JEPA 2's grid of 20 on one pass through the frozen encoder."""

from functools import partial

from torch.optim import AdamW

from tools.benches.measure import CLASSES, Wanted, of_models, train_step
from tools.benches.video import clips_for, encoder
from video.attentive_probe import AttentiveProbe
from xmodal.engine.optim import param_groups
from xmodal.heads.classification import ClassificationHead
from xmodal.probe_grid import ProbeGrid

GRID = [dict(lr=lr, weight_decay=wd) for wd in (0.01, 0.1, 0.4, 0.8) for lr in (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)]
WANTED = {"probes": [Wanted("time", "20 attentive probes", "1 attentive probe", 1.5),
                     Wanted("time", "20 linear probes", "1 linear probe", 1.5)]}  # fmt: skip


def grid(args, count, reader=None):
    """A model of some probes, with its optimizer."""
    head = dict(type=ClassificationHead, num_classes=CLASSES)
    model = ProbeGrid(GRID[:count], encoder=encoder(args.size), reader=reader, head=head).train()
    model.optimizer = AdamW(param_groups(model, 1e-3))
    return model


def step(state):
    """One training step, the optimizer included."""
    loss = train_step(state)
    state[0].optimizer.step()
    return loss


def probes(args):
    """One probe and 20, linear on the pooled feature and attentive (depth 1) on all tokens."""
    attentive = dict(type=AttentiveProbe, depth=1)
    rows = {
        "1 attentive probe": (step, partial(grid, count=1, reader=attentive)),
        "20 attentive probes": (step, partial(grid, count=20, reader=attentive)),
        "1 linear probe": (step, partial(grid, count=1)),
        "20 linear probes": (step, partial(grid, count=20)),
    }
    return of_models(rows, args, clips_for(args))
