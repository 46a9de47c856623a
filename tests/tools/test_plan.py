"""The plan of a large set: operations as torch counts them, and sums by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tools import plan
from tools.plan import Workload, forward_flops, terabytes


def test_operations_are_those_that_torch_counts():
    import timm

    with torch.device("meta"):
        tower = timm.create_model("vit_base_patch16_224", num_classes=0)
        with FlopCounterMode(display=False) as counter:
            tower(torch.empty(1, 3, 224, 224))
    assert forward_flops(*plan.TOWERS["b16"], 224) == counter.get_total_flops()


def test_sums_by_hand():
    found = Workload(
        videos=1000, seconds=8.0, epochs=10, megabits=2.0, decode_ms=36.0, views=2, gpu_tflops=100.0, share=0.5
    )
    rows = dict(found.data_rows())
    assert rows["bytes of the videos"] == "2 GB"
    assert rows["decoding, an epoch"] == "0.01 core-hours"
    hours = 1000 * found.clip_flops() / 50e12 / 3600
    assert found.gpu_hours(1) == pytest.approx(hours)
    assert rows["cache of 2,000 clips: float32 / float16 / int8"] == "53.2 GB / 26.6 GB / 13.3 GB"
    steps = found.training_rows()
    assert steps[0][1].endswith("(100%)")
    assert steps[3][1].endswith(f"({(2 + 0.8) / 30:.0%})")
    assert steps[-1][1] == "2"
    assert terabytes(2.5e15) == "2.5 PB"
    assert terabytes(10) == "1e-08 GB"


def test_the_command_prints_its_assumptions(capsys):
    assert plan.main(["kinetics400", "--tower", "l14", "--frames", "16"]) == 0
    out = capsys.readouterr().out
    assert "not measured" in out
    assert "tower l14, frames 16" in out
    assert "videos 240,000" in out
    with pytest.raises(SystemExit):
        plan.main(["imagenet"])
