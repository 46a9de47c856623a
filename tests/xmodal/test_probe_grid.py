"""Many probes on one pass: each trains as it would alone, the choice is on held-out data, both figures are told."""

import pytest
import torch
from mmengine.config import Config

from tests.xmodal.adapters.towers import build, vit
from video.attentive_probe import AttentiveProbe
from xmodal.data.annotations import Sample, part_of
from xmodal.engine.optim import param_groups
from xmodal.engine.probes import spread_probes
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel
from xmodal.probe_grid import ProbeAccuracy, ProbeGrid

SETTINGS = [dict(lr=0.1, weight_decay=0.0), dict(lr=0.01, weight_decay=0.5), dict(lr=0.1, weight_decay=0.5)]
HEAD = dict(type=ClassificationHead, num_classes=3)
READER = dict(type=AttentiveProbe, depth=1)


def batch():
    torch.manual_seed(2)
    return dict(clips=torch.randn(4, 1, 2, 3, 16, 16), label=torch.tensor([0, 1, 2, 0]))


def alone(grid, i):
    """The same encoder with the reader and head of one probe."""
    model = TransferModel(grid.encoder, HEAD, reader=READER)
    model.reader.load_state_dict(grid.probes[i]["reader"].state_dict())
    model.head.load_state_dict(grid.probes[i]["head"].state_dict())
    return model


def test_every_probe_trains_as_it_would_alone():
    grid = ProbeGrid(SETTINGS, encoder=build(vit), reader=READER, head=HEAD).train()
    models = [alone(grid, i).train() for i in range(3)]
    grouped = torch.optim.AdamW(param_groups(grid, 1.0))
    each = [torch.optim.AdamW(param_groups(m, **{k: s[k] for k in ("lr", "weight_decay")}))
            for m, s in zip(models, SETTINGS, strict=True)]  # fmt: skip
    for _ in range(3):
        for optimizer, run in ((grouped, grid), *zip(each, models, strict=True)):
            optimizer.zero_grad()
            run(mode="loss", **batch())["loss"].backward()
            optimizer.step()
    for i, model in enumerate(models):
        for key, value in model.reader.state_dict().items():
            torch.testing.assert_close(grid.probes[i]["reader"].state_dict()[key], value, msg=f"{i} {key}")


def test_the_encoder_runs_once_and_must_be_frozen():
    encoder = build(vit)
    grid = ProbeGrid(SETTINGS, encoder=encoder, reader=READER, head=HEAD)
    calls = []
    encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    assert grid(clips=batch()["clips"]).shape == (3, 4, 3)
    assert len(calls) == 1
    assert all(key.startswith("probes.") or key == "chosen" for key in grid.saved_keys())
    with pytest.raises(ValueError, match="leave out adapters"):
        ProbeGrid(SETTINGS, encoder=build(vit), reader=READER, head=HEAD, adapters=[dict(type="lora")])
    with pytest.raises(ValueError, match="'depth' is neither"):
        ProbeGrid([dict(lr=1, depth=2)], encoder=build(vit), reader=READER, head=HEAD)
    deep = ProbeGrid([{"lr": 1, "reader.depth": d} for d in (1, 2)], encoder=build(vit), reader=READER, head=HEAD)
    assert [len(p["reader"].blocks) for p in deep.probes] == [0, 1]


def test_the_choice_is_held_out_and_both_figures_are_told():
    """Probe 0 is right on 2 of 4 test samples, probe 1 on 3; validation chose probe 0."""

    def samples(right, chosen):
        hits = torch.tensor(right)  # (N, P)
        return [dict(scores=torch.stack([torch.tensor([1.0, 0.0]) if h else torch.tensor([0.0, 1.0]) for h in row]),
                     label=0, sample_id=str(i), chosen=chosen) for i, row in enumerate(hits)]  # fmt: skip

    val = ProbeAccuracy(SETTINGS[:2], choose=True, source="a tenth")
    val.process({}, samples([[1, 0], [1, 1]], -1))
    found = val.evaluate(2)
    assert (found["top1"], found["chosen"], found["selected_on"]) == (100.0, 0, "a tenth")
    test = ProbeAccuracy(SETTINGS[:2])
    test.process({}, samples([[1, 1], [1, 1], [0, 1], [0, 0]], found["chosen"]))
    told = test.evaluate(4)
    assert (told["top1"], told["best_on_these_data"], told["mean_of_probes"]) == (50.0, 75.0, 62.5)
    assert told["setting"] == SETTINGS[0]
    assert told["probes"] == 2


def test_samples_held_out_are_the_same_ones_whatever_their_order():
    samples = [Sample(f"{i}.mp4", i % 3, f"clip{i}") for i in range(30)]
    held, rest = part_of(samples, 0.2, True), part_of(samples, 0.2, False)
    assert sorted(s.label for s in held) == [0, 0, 1, 1, 2, 2]
    assert {s.sample_id for s in held} | {s.sample_id for s in rest} == {s.sample_id for s in samples}
    assert not {s.sample_id for s in held} & {s.sample_id for s in rest}
    assert {s.sample_id for s in part_of(samples[::-1], 0.2, True)} == {s.sample_id for s in held}
    assert part_of(samples, 0.0, False) == samples
    with pytest.raises(ValueError, match="between 0 and 1"):
        part_of(samples, 1.0, False)


def config(**probes):
    data = lambda name: dict(dataset=dict(type="video", annotation=f"{name}.txt"))  # noqa: E731
    loaders = {f"{part}_dataloader": data(name) for part, name in (("train", "train"), ("val", "val"), ("test", "val"))}
    return Config(dict(model=dict(type="transfer"), probes=probes, optim_wrapper={}, default_hooks={}, **loaders))


def test_a_config_is_spread_and_never_chooses_on_its_test_data():
    cfg = config(lr=[1.0, 2.0], weight_decay=[0.1, 0.2], holdout=0.25)
    spread_probes(cfg)
    assert [(s["lr"], s["weight_decay"]) for s in cfg.model.settings] == [(1, 0.1), (2, 0.1), (1, 0.2), (2, 0.2)]
    val = cfg.val_dataloader.dataset
    assert (val.annotation, val.held, val.hold_out, val.test_mode) == ("train.txt", True, 0.25, True)
    assert cfg.train_dataloader.dataset.hold_out == 0.25
    assert cfg.test_dataloader.dataset.annotation == "val.txt"
    assert "probes" not in cfg
    with pytest.raises(ValueError, match="validation and test data are both"):
        spread_probes(config(lr=[1.0]))
    with pytest.raises(ValueError, match="lists of values"):
        spread_probes(config(lr=1.0))
    clipped = config(lr=[1.0], holdout=0.1)
    clipped.optim_wrapper = dict(clip_grad=dict(max_norm=1))
    with pytest.raises(ValueError, match="clip_grad"):
        spread_probes(clipped)
