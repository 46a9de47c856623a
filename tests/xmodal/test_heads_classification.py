"""The linear classifier's loss, penalty, start and accuracy, against formulas in float64."""

import pytest
import torch

from xmodal.heads.base import top1
from xmodal.heads.classification import ClassificationHead


@pytest.fixture
def batch():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 1, 1])


def logits_of(head, feature):
    return feature.double() @ head.fc.weight.double().t() + head.fc.bias.double()


def test_label_smoothing_by_the_formula(batch):
    """The target of a class is 1 - s + s / K, of the others s / K."""
    feature, label = batch
    head = ClassificationHead(8, 4, label_smoothing=0.2, init_std=1.0)
    log = logits_of(head, feature).log_softmax(1)
    target = torch.full((6, 4), 0.05, dtype=torch.float64)
    target[torch.arange(6), label] = 0.85
    want = -(target * log).sum(1).mean().item()
    assert head.loss(feature, label)["loss"].item() == pytest.approx(want, abs=1e-5)
    plain = ClassificationHead(8, 4, init_std=1.0)
    plain.load_state_dict(head.state_dict())
    want = -log[torch.arange(6), label].mean().item()
    assert plain.loss(feature, label)["loss"].item() == pytest.approx(want, abs=1e-5)


def test_soft_targets_by_the_formula(batch):
    feature, _ = batch
    head = ClassificationHead(8, 4, init_std=1.0)
    target = torch.rand(6, 4).softmax(1)
    want = -(target.double() * logits_of(head, feature).log_softmax(1)).sum(1).mean().item()
    assert head.loss(feature, target)["loss"].item() == pytest.approx(want, abs=1e-5)


def test_the_penalty_is_of_columns(batch):
    """One column is a feature's weights for all classes; columns (3, 4) and (0, 2) have lengths 5 and 2."""
    head = ClassificationHead(2, 2, column_penalty=0.1)
    with torch.no_grad():
        head.fc.weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    found = head.loss(batch[0][:, :2], batch[1].clamp(max=1))
    assert found["loss_columns"].item() == pytest.approx(0.1 * (5 + 2))
    assert "loss_columns" not in ClassificationHead(2, 2).loss(batch[0][:, :2], batch[1].clamp(max=1))


def test_the_start_is_small():
    head = ClassificationHead(500, 40)
    assert head.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.fc.bias.any()
    assert ClassificationHead(500, 40, init_std=0.5).fc.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert ClassificationHead(4, 400, init_std=None).fc.weight.abs().max() > 0.4  # torch's own: up to 1 / sqrt(4)


def test_a_norm_in_front(batch):
    head = ClassificationHead(8, 4, norm=True, init_std=1.0)
    x = batch[0].double() * 5 + 3
    unit = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    assert torch.allclose(head(x.float()).double(), logits_of(head, unit), atol=1e-4)


def test_dropout_is_for_training_alone(batch):
    head = ClassificationHead(8, 4, dropout=0.5, init_std=1.0)
    assert not torch.equal(head.train()(batch[0]), head(batch[0]))
    assert torch.allclose(head.eval()(batch[0]).double(), logits_of(head, batch[0]), atol=1e-5)


def test_accuracy_of_hard_and_soft_labels(batch):
    """Three of six: said are 0 1 2 0 0 0, true are 0 1 2 3 1 1."""
    head, said = ClassificationHead(4, 4, init_std=None), torch.eye(4)[[0, 1, 2, 0, 0, 0]]
    with torch.no_grad():
        head.fc.weight.copy_(torch.eye(4))
        head.fc.bias.zero_()
    soft = 0.7 * torch.eye(4)[batch[1]] + 0.3 * torch.eye(4)[[1, 0, 0, 0, 0, 0]]
    for label in (batch[1], soft):
        assert head.loss(said, label)["top1"].item() == pytest.approx(50)
        assert top1(said, label).item() == pytest.approx(50)


def test_probabilities_add_up(batch):
    head = ClassificationHead(8, 4, init_std=1.0)
    assert torch.allclose(head.predict(batch[0]).double(), logits_of(head, batch[0]).softmax(1), atol=1e-5)
