"""What a dry run says is what the run then needs."""

import numpy as np
import pytest
import torch

from tests.start.test_new import clips, new, photos
from tests.tools.test_train_tools import tool
from xmodal.engine.checkpoint import LAST
from xmodal.engine.dry_run import MB, TrialStep, dry_run, needs_of, parse_size
from xmodal.engine.launch import prepare
from xmodal.engine.memory import peak_megabytes


def clouds(folder):
    rng = np.random.default_rng(0)
    for name in ("box", "ball"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            np.save(folder / name / f"{i}.npy", rng.normal(size=(600, 3)).astype(np.float32))
    return folder


CASES = {  # how the files are made, method, further options
    "video": (clips, "st-adapter", []),
    "image": (photos, "lora", []),
    "cloud": (clouds, "epcl", []),
    "cached": (clips, "evl", []),
    "recomputed": (clips, "st-adapter", ["model.recompute=true"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_memory_is_within_15_percent_of_the_measured_peak(case, tmp_path):
    make, method, options = CASES[case]
    new(tmp_path, make(tmp_path / "set"), method=method)
    options = [*options, "train_dataloader.batch_size=24", f"work_dir={tmp_path}"]
    if case == "cached":
        options.append(f"cache.root={tmp_path / 'cache'}")
    cfg = prepare(str(tmp_path / "mine.py"), str(tmp_path / "w"), options)
    said = needs_of(TrialStep(cfg))
    trial = TrialStep(cfg)  # the whole batch, followed allocation by allocation
    items, _ = trial.items(24)
    batch = trial.collated(items)
    trial.model.train()
    trial.take_step(batch)
    trial.model.zero_grad(set_to_none=True)
    state = [v for each in trial.wrapper.optimizer.state.values() for v in each.values() if isinstance(v, torch.Tensor)]
    standing = [*trial.model.parameters(), *trial.model.buffers(), *state]
    standing += [v for v in batch.values() if isinstance(v, torch.Tensor)]
    measured = sum(t.nbytes for t in standing) / MB + peak_megabytes(lambda: trial.take_step(batch))
    assert said.peak == pytest.approx(measured, rel=0.15)
    assert sum(said.pieces.values()) == pytest.approx(said.peak, rel=0.15)
    assert said.optimizer == pytest.approx(2 * said.gradients, rel=0.01)  # AdamW


def test_a_dry_run_says_what_the_run_then_writes(tmp_path, capsys):
    from tests.engine.test_finetune import config

    text = config(tmp_path, ["a", "b"], "a.py")
    assert tool("train")([text, "--dry-run", "--work-dir", str(tmp_path / "w")]) == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "w").exists()
    assert "data: 4 training samples, 4 val, 4 test; 2 classes: a, b" in out
    for word in ("weights trained", "GFLOPs", "memory of a step: ", "most of it: ", "best.pth ", "run: 1 steps"):
        assert word in out
    assert tool("train")([text, "--work-dir", str(tmp_path / "w")]) == 0
    cfg = prepare(text)
    needs, _ = dry_run(cfg)
    size = (tmp_path / "w" / LAST).stat().st_size / MB
    assert needs.saved + needs.optimizer == pytest.approx(size, abs=0.06)  # the rest are names and settings
    assert tool("train")([text, "--max-memory", "1GB"]) == 0
    assert "within 1.00 GB:\n  as it is: " in capsys.readouterr().out
    assert tool("train")([text, "--max-memory", "1MB"]) == 0
    assert "within 1.0 MB: nothing fits" in capsys.readouterr().out
    assert tool("train")([text, "--max-memory", "much"]) == 2
    assert "--max-memory takes a size such as 24GB, got 'much'" in capsys.readouterr().err


def test_operations_are_those_of_a_hand_count(tmp_path):
    """The probe trains one linear layer: 2 x in x out forward, twice that backward, of which the input needs none."""
    from tests.engine.test_finetune import config
    from xmodal.encoders.vit import VisionTransformer

    cfg = prepare(config(tmp_path, ["a", "b"], "a.py"), None, ["model.adapters=[]"])
    trial = TrialStep(cfg)
    assert isinstance(trial.model.encoder, VisionTransformer)
    items, _ = trial.items(2)
    flops = trial.measure(trial.collated(items)).flops / 2
    tokens, dim, depth, hidden, out = 37, 128, 4, 512, 96
    block = 2 * tokens * dim * (4 * dim) + 2 * 2 * tokens * tokens * dim + 2 * 2 * tokens * dim * hidden
    patches = 2 * 36 * (3 * 8 * 8) * dim
    spared = (tokens - 1) * (2 * dim * 2 * dim + 2 * 2 * dim * hidden) + 2 * 2 * (tokens - 1) * tokens * dim
    by_hand = depth * block - spared + patches + 2 * dim * out + 2 * 2 * out * 2
    assert flops == pytest.approx(by_hand, rel=0.03)  # the last block reads out one token alone


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 2**30), ("800 MB", 800 * 2**20), ("1.5g", 1.5 * 2**30), ("2", 2**31)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size
