"""Which subnet of NOAH's supernet a training step, a validation and a judgement use."""

import pytest
import torch

from tests.xmodal.adapters.towers import build, vit
from xmodal.adapters.noah import choose_subnet, noah
from xmodal.encoders.sites import placed
from xmodal.search import SearchSpace, sample_subnet
from xmodal.supernet import SampleSubnet, accuracy_of, whole

SUBNET = dict(prompt=[3, 1, 2], lora=[2, 0, 4], adapter=[0, 2, 4])


def supernet():
    encoder = build(vit)
    noah(encoder, 4, 4, 4)
    return encoder


class Loop:
    steps_per_epoch = 4

    def __init__(self, epoch, step):
        self.epoch, self.iter = epoch, epoch * 4 + step


class Model:
    def __init__(self, encoder):
        self.encoder = encoder


class Runner:
    """What the hook looks at."""

    def __init__(self, encoder, seed=7):
        self.model, self.seed, self.train_loop = Model(encoder), seed, Loop(0, 0)


def active(encoder):
    parts = [(site[0], site[1].active) for site in placed(encoder)]
    kinds = {"prompt": "pre_attn", "lora": "attn.qkv.edits", "adapter": "mlp.edits"}
    return {kind: [n for name, n in parts if where in name] for kind, where in kinds.items()}


def test_every_step_trains_a_subnet_of_its_seed_epoch_and_step_and_validation_the_whole():
    encoder = supernet()
    runner, hook = Runner(encoder), SampleSubnet([1, 4], [1, 3])
    hook.before_train(runner)
    space = SearchSpace(3, 24, [1, 4], [1, 3])
    for seed, epoch, step in [(7, 0, 0), (7, 0, 3), (7, 2, 3), (8, 2, 3)]:
        runner.seed, runner.train_loop = seed, Loop(epoch, step)
        hook.before_train_iter(runner, 0)
        assert active(encoder) == sample_subnet(space, seed, epoch, step)
    drawn = [sample_subnet(space, 7, e, s) for e in range(3) for s in range(4)]
    assert len({str(d) for d in drawn}) > 6
    hook.before_val_epoch(runner)
    assert active(encoder) == {kind: [4, 4, 4] for kind in ("prompt", "lora", "adapter")} == whole(space)


def test_accuracy_of_a_subnet_is_the_share_of_right_answers_in_evaluation_mode():
    class Scores(torch.nn.Module):
        encoder, data_preprocessor = supernet(), staticmethod(dict)

        def forward(self, mode, image):
            assert not self.training
            return image

    batches = [
        {"image": torch.eye(3)[[0, 1, 2]], "label": torch.tensor([0, 1, 1]), "sample_id": ["a", "b", "c"]},
        {"image": torch.eye(3)[[2]], "label": torch.tensor([2]), "sample_id": ["d"]},
    ]
    model = Scores().train()
    judge = accuracy_of(model, batches)
    assert judge(SUBNET) == 0.75
    assert active(model.encoder) == SUBNET
    with pytest.raises(ValueError, match="no sample"):
        accuracy_of(model, [])


def test_a_supernet_of_another_name_is_found_by_it():
    encoder = build(vit)
    noah(encoder, 2, 2, 2, name="own")
    hook, runner = SampleSubnet([2], [3], "own"), Runner(encoder)
    hook.before_train(runner)
    sizes = dict(prompt=[0, 1, 2], lora=[2, 0, 1], adapter=[1, 2, 0])
    choose_subnet(encoder, sizes, "own")
    assert active(encoder) == sizes
    hook.before_val_epoch(runner)
    assert active(encoder) == {kind: [2, 2, 2] for kind in ("prompt", "lora", "adapter")}
    for name in ("own", "noah"):
        with pytest.raises(ValueError, match=f"sizes 0 to {2 if name == 'own' else 0}, not 3"):
            choose_subnet(encoder, dict(prompt=[3, 0, 0], lora=[0] * 3, adapter=[0] * 3), name)
