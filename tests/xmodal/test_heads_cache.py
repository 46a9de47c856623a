"""Caches: the search against the released nested loop, fusion against plain code, training of keys, the probe."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xmodal.evaluation.fit import fit_keys
from xmodal.evaluation.logistic import fit_logistic, search_probe
from xmodal.heads.cache import build_cache, search, search_grid, winner
from xmodal.heads.cafo import CaFoHead, fuse, read_sentences
from xmodal.heads.tip_adapter import TipAdapterHead


def data(classes=4, per=6, dim=12, seed=0, noise=1.2):
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, dim, generator=torch.Generator().manual_seed(9))
    label = torch.arange(classes).repeat_interleave(per)
    text = F.normalize(centers + 2 * torch.randn(centers.shape, generator=torch.Generator().manual_seed(8)), dim=-1)
    return centers[label] + noise * torch.randn(len(label), dim, generator=g), label, text


@pytest.fixture
def head():
    x, y, text = data()
    return TipAdapterHead.from_shots(torch.stack([x, x + 0.1]), y, text, list("abcd"), alpha=2.0, beta=3.0)


def test_logits_by_the_papers_formula(head):
    f = torch.randn(3, 12)
    unit = F.normalize(f, dim=-1)
    a = unit @ head.keys.t()
    want = 100 * unit @ head.text_features.t() + 2.0 * torch.exp(-3.0 * (1 - a)) @ head.values
    assert torch.allclose(head(f), want, rtol=1e-5, atol=1e-4)
    assert torch.allclose(head.keys.norm(dim=-1), torch.ones(24))
    assert not head.keys.requires_grad


def test_search_finds_what_the_nested_loop_finds(head):
    head.logit_scale = 3.0  # so that the cache can change minds
    x, y, _ = data(seed=3, noise=2.5)
    found = head.search(x, y, (7, 3), (30, 8))
    best, pair, trace = 0.0, None, []
    for beta in [i * (7 - 0.1) / 30 + 0.1 for i in range(30)]:
        for alpha in [j * (3 - 0.1) / 8 + 0.1 for j in range(8)]:
            head.alpha, head.beta = alpha, beta
            accuracy = float((head(x).argmax(1) == y).float().mean() * 100)
            if accuracy > best:
                best, pair = accuracy, (beta, alpha)
                trace.append((beta, alpha))
    assert (found.beta, found.alpha) == pair
    assert found.accuracy == pytest.approx(best)
    assert [t[:2] for t in found.trace] == trace
    assert len(trace) > 1


def test_ties_keep_the_first_winner():
    found = winner(torch.tensor([[10.0, 30.0], [30.0, 20.0]]), [0.1, 0.2], [1.0, 2.0])
    assert (found.beta, found.alpha) == (0.1, 2.0)


def test_grids_never_reach_their_upper_end():
    betas, alphas = search_grid((7, 3), (200, 20))
    assert (len(betas), len(alphas)) == (200, 20)
    assert betas[0] == alphas[0] == 0.1
    assert max(betas) < 7
    with pytest.raises(ValueError, match="give two of each"):
        search_grid((7,), (200, 20))


def test_four_thousand_points_ask_the_cache_once_a_beta():
    """What alpha scales is computed for each beta alone, and the zero-shot logits once: that makes the search fast."""
    base, asked = torch.zeros(8, 3), []
    found = search(base, lambda beta: asked.append(beta) or torch.ones(8, 3), torch.zeros(8).long(), (7, 3))
    assert found.grid.numel() == 4000
    assert len(asked) == 200


def test_training_keeps_the_best_keys_and_leaves_the_cache_alone(head):
    x, y, _ = data()
    val, label, _ = data(seed=5)
    before = head.keys.detach().clone()
    twin = TipAdapterHead(12, list("abcd"), head.text_features, before, head.values, alpha=2.0, beta=3.0)
    accuracies = []

    def score():
        accuracies.append(float((twin(val).argmax(1) == label).float().mean()))
        return accuracies[-1]

    done = fit_keys(twin, [twin.keys], lambda e: [(x, y)], epochs=4, lr=0.05, score=score)
    assert done.at == int(np.argmax(accuracies))
    assert not twin.keys.requires_grad
    assert torch.equal(head.keys, before)
    assert not torch.equal(done.last[0], before)


def test_cosine_ends_at_zero_unless_its_period_is_too_short(head):
    x, y, _ = data()
    moved = {}
    for period in (None, 3):
        keys = []
        twin = TipAdapterHead(12, list("abcd"), head.text_features, head.keys, head.values)
        fit_keys(
            twin,
            [twin.keys],
            lambda e: [(x, y)] * 2,
            3,
            watch=lambda t=twin, k=keys: k.append(t.keys.clone()),
            period=period,
        )
        moved[period] = float((keys[2] - keys[1]).norm())
    assert moved[3] > 1.5 * moved[None], "CaFo's release lets the rate rise again"


@pytest.mark.parametrize("mode", ["mean", "softmax", "linear"])
def test_fusion_weighs_by_agreement(mode):
    zero, a, b = torch.randn(3, 5, 7).unbind(0)
    kept = zero.clone()
    out = fuse(zero, [a, b], mode)
    assert torch.equal(zero, kept)
    for i in range(5):
        norm = {
            "mean": lambda r: (r - r.mean()) / r.std(),
            "softmax": lambda r: r.softmax(0),
            "linear": lambda r: r / r.norm(),
        }[mode]
        rows = [norm(a[i]), norm(b[i])]
        weight = torch.stack([(r * norm(zero[i])).sum() for r in rows]).softmax(0)
        assert torch.allclose(out[i], weight[0] * rows[0] + weight[1] * rows[1], atol=1e-5)


def test_cafo_trains_both_caches_and_searches_with_what_it_holds():
    x, y, text = data()
    second = torch.randn(24, 5)
    keys, values = build_cache(x, y, 4)
    more = dict(alpha=1.5, logit_scale=3.0)
    head = CaFoHead(12, list("abcd"), text, keys, F.normalize(second, dim=-1), values, **more)
    query = data(seed=4, noise=2.5)[0], torch.randn(24, 5)
    before = head.search(query, y, (5, 3), (10, 4)).grid
    fit_keys(head, [head.keys, head.second_keys], lambda e: [((x, second), y)], 3, lr=0.3)
    assert not torch.allclose(head.keys, keys)
    assert not torch.equal(head.search(query, y, (5, 3), (10, 4)).grid, before)


def test_sentences_of_a_language_model(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"Old_Cat": ["It meows.", "It naps."], "dog": ["It barks."]}')
    assert read_sentences(path, ["old cat", "dog"]) == [["It meows.", "It naps."], ["It barks."]]
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        read_sentences(path, ["dogg"])


@pytest.mark.parametrize(
    ("change", "message"),
    [(dict(fusion="meen"), "did you mean 'mean'"), (dict(second_keys=torch.ones(3, 5)), "do not fit")],
)
def test_mistakes_are_named(change, message):
    x, y, text = data()
    keys, values = build_cache(x, y, 4)
    with pytest.raises(ValueError, match=message):
        CaFoHead(12, list("abcd"), text, **{**dict(keys=keys, second_keys=torch.ones(24, 5), values=values), **change})


def test_probe_is_at_its_optimum():
    x, y, _ = data()
    probe = fit_logistic(x, y, 4, strength=0.3)
    w, b = probe.weight.double().requires_grad_(), probe.bias.double().requires_grad_()
    cost = 0.5 * (w**2).sum() + 0.3 * F.cross_entropy(x.double() @ w.t() + b, y, reduction="sum")
    grads = torch.autograd.grad(cost, [w, b])
    assert max(float(g.abs().max()) for g in grads) < 0.02
    assert float(cost.detach()) < 0.3 * len(y) * np.log(4)


def test_probe_chooses_its_strength_on_the_validation_set():
    x, y, _ = data(noise=2.0)
    val = data(seed=2, noise=2.0)[:2]
    probe = search_probe((x, y), val, 4)
    assert len(probe.trace) == 7 + 2 + 8
    assert probe.accuracy(*val) >= max(a for c, a in probe.trace[:7]) - 5


def test_keys_are_the_normalized_mean_of_raw_features():
    """Features of lengths 1 and 9: the mean of the raw ones is not that of the unit ones."""
    passes = torch.stack([torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 9.0], [4.0, 0.0]])])
    keys, values = build_cache(passes, torch.tensor([2, 0]), 4)
    want = [[1 / 82**0.5, 9 / 82**0.5], [4 / 20**0.5, 2 / 20**0.5]]
    assert torch.allclose(keys, torch.tensor(want))
    assert values.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def scripted(scores):
    """Keys that go up by the rate in every step, and what a watched run of them keeps."""
    keys, left = torch.nn.Parameter(torch.zeros(1, 2)), list(scores)
    head = lambda feature: keys @ torch.tensor([[10.0, -10.0], [0.0, 0.0]]) + 0 * feature  # noqa: E731
    seen = []
    batches = lambda epoch: [(torch.zeros(1, 2), torch.tensor([0]))]  # noqa: E731
    watch = lambda: seen.append(keys.detach().clone())  # noqa: E731
    done = fit_keys(head, [keys], batches, len(scores), 0.1, score=lambda: left.pop(0), watch=watch)
    return keys, seen, done


def test_the_keys_of_the_best_epoch_are_kept_when_the_curve_falls_again():
    keys, seen, done = scripted([60.0, 80.0, 70.0, 80.0])
    assert len({k[0, 0].item() for k in seen}) == 4
    assert (done.at, done.score) == (1, 80.0)
    assert torch.equal(keys.detach(), seen[1])
    assert torch.equal(done.last[0], seen[3])
    keys, seen, done = scripted([0.0, 0.0])
    assert done.at == 0
    assert torch.equal(keys.detach(), seen[0])


def test_keys_train_as_the_release_does(head):
    """AdamW with eps 1e-4 and decay 0.01, a cosine per step over all steps."""
    x, y, _ = data()
    twin = TipAdapterHead(12, list("abcd"), head.text_features, head.keys, head.values, alpha=2.0, beta=3.0)
    keys = head.keys.detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([keys], lr=0.02, eps=1e-4, weight_decay=0.01)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 + np.cos(np.pi * step / 6)) / 2
        unit = F.normalize(x, dim=-1)
        logits = 100 * unit @ head.text_features.t() + 2 * torch.exp(-3 * (1 - unit @ keys.t())) @ head.values
        optimizer.zero_grad()
        F.cross_entropy(logits, y).backward()
        optimizer.step()
    fit_keys(twin, [twin.keys], lambda e: [(x, y)] * 2, 3, 0.02)
    assert torch.allclose(twin.keys, keys, atol=1e-5)


def test_cafos_logits_by_the_papers_formula():
    x, y, text = data()
    second = torch.randn(24, 5)
    keys, values = build_cache(x, y, 4)
    others = F.normalize(second, dim=-1)
    head = CaFoHead(12, list("abcd"), text, keys, others, values, alpha=1.5, beta=2.5, logit_scale=3.0)
    a, b = torch.randn(7, 12), torch.randn(7, 5)
    base = 3 * F.normalize(a, dim=-1) @ text.t()
    caches = [torch.exp(-2.5 * (1 - F.normalize(q, dim=-1) @ k.t())) @ values for q, k in ((a, keys), (b, others))]
    z0, *z = ((r - r.mean(1, keepdim=True)) / r.var(1, keepdim=True).sqrt() for r in (base, *caches))
    weight = torch.stack([(r * z0).sum(1) for r in z]).softmax(0)
    want = base + 1.5 * (weight[0][:, None] * z[0] + weight[1][:, None] * z[1])
    assert torch.allclose(head((a, b)), want, atol=1e-5)


def test_the_strength_by_halvings_written_out():
    """A coarse grid from 1e6 to 1e-6; from the first best one, both ends of a decade, then halvings of log10 C."""
    x, y, _ = data(noise=2.5)
    val = data(seed=2, noise=2.5)[:2]
    probe = search_probe((x, y), val, 4, steps=5)
    tried = [c for c, _ in probe.trace]
    assert tried[:7] == [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6]
    grid = [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    scores = dict(probe.trace)
    peak = max(grid, key=lambda c: scores[c])  # the first of equals, the largest C
    low, high = np.log10(peak) - 1, np.log10(peak) + 1
    follow = [low, high]
    accuracy = [a for _, a in probe.trace[7:]]
    left, right = accuracy[0], accuracy[1]
    for number in range(5):
        middle = (low + high) / 2
        follow.append(middle)
        if left < right:
            low, left = middle, accuracy[2 + number]
        else:
            high, right = middle, accuracy[2 + number]
    assert np.log10(tried[7:]).tolist() == pytest.approx(follow)
    assert len(set(accuracy)) > 1
    assert np.log10(probe.strength) == pytest.approx(high if left < right else low)
    assert probe.accuracy(*val) == max(left, right)


def test_what_a_search_found_is_part_of_the_state():
    """And state dicts of before, which hold no alpha and beta, still load."""
    torch.manual_seed(0)
    text, label = torch.nn.functional.normalize(torch.randn(3, 8), dim=1), torch.arange(12) % 3
    shots, feature = torch.randn(12, 8), torch.randn(5, 8)
    head = TipAdapterHead.from_shots(shots, label, text, ["a", "b", "c"], alpha=0.37, beta=5.25)
    other = TipAdapterHead.from_shots(torch.randn(12, 8), label, text, ["a", "b", "c"])
    other.load_state_dict(head.state_dict())
    assert (other.alpha, other.beta) == (0.37, 5.25)
    assert torch.equal(other(feature), head(feature))
    older = {key: value for key, value in head.state_dict().items() if "extra" not in key}
    kept = TipAdapterHead.from_shots(torch.randn(12, 8), label, text, ["a", "b", "c"], alpha=2.0)
    kept.load_state_dict(older)
    assert kept.alpha == 2.0
