"""NOAH's search: rules of candidates, progress, and going on after an interruption."""

import json

import numpy as np
import pytest

from xmodal.search import Search, SearchSpace, sample_subnet

SPACE = dict(depth=4, dim=8, dims=(1, 3), depths=(1, 2, 4), largest_prompt=3)


def accuracy(sizes):
    """The more LoRA in few blocks, the better."""
    return sum(sizes["lora"]) - 0.1 * sum(sizes["prompt"]) - 0.01 * sum(sizes["adapter"])


def search(**kwargs):
    given = dict(limit=900, population=12, parents=4, mutations=6, crossovers=6, epochs=5)
    return Search(SearchSpace(**SPACE), accuracy, **(given | kwargs))


def test_candidates_are_sizes_up_to_a_depth_then_zeros():
    space = SearchSpace(**SPACE)
    for i in range(50):
        for vector in sample_subnet(space, 0, 0, i).values():
            depth = sum(1 for v in vector if v)
            assert depth in SPACE["depths"]
            assert set(vector[:depth]) <= set(SPACE["dims"])
            assert vector[depth:] == [0] * (4 - depth)
    assert sample_subnet(space, 0, 1, 2) == sample_subnet(space, 0, 1, 2)
    assert any(sample_subnet(space, 0, 1, i) != sample_subnet(space, 0, 2, i) for i in range(5))


def test_it_finds_the_best_within_the_limit_and_repeats_itself():
    first = search()
    best, score = first.run(log=lambda line: None)
    assert all(first.space.params(json.loads(k)) <= 900 for k in first.scores)
    assert score == max(first.scores[k] for k in first.kept)
    random = max(accuracy(first.space.draw(np.random.default_rng(i))) for i in range(3))
    assert score >= random
    assert search().run(log=lambda line: None) == (best, score)


def test_a_mutation_never_draws_existing_sizes_again():
    s, rng = search(mutation_prob=1.0, depth_prob=1.0), np.random.default_rng(0)
    parent = {"prompt": [3, 1, 0, 0], "lora": [1, 0, 0, 0], "adapter": [3, 3, 1, 3]}
    for _ in range(50):
        child = s.mutate(rng, [json.dumps(parent)])
        for kind, old in parent.items():
            depth = sum(1 for v in child[kind] if v)
            same = min(depth, sum(1 for v in old if v))
            assert child[kind][:same] == old[:same]
    assert search(mutation_prob=1.0, depth_prob=0.0).mutate(rng, [json.dumps(parent)]) == parent


def test_an_interrupted_search_goes_on_where_it_was(tmp_path):
    whole = search().run(log=lambda line: None)
    file = tmp_path / "search.json"
    search(epochs=2, state_file=file).run(log=lambda line: None)
    calls = []
    rest = search(state_file=file)
    rest.evaluate = lambda sizes: calls.append(sizes) or accuracy(sizes)
    assert rest.run(log=lambda line: None) == whole
    assert 0 < len(calls) < len(rest.scores)
    with pytest.raises(ValueError, match="another"):
        search(seed=1, state_file=file).run(log=lambda line: None)


def test_an_interrupted_epoch_is_not_evaluated_again(tmp_path):
    calls = []

    def stops(sizes):
        calls.append(sizes)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return accuracy(sizes)

    first = search(state_file=tmp_path / "search.json")
    first.evaluate = stops
    with pytest.raises(KeyboardInterrupt):
        first.run(log=lambda line: None)
    rest = search(state_file=tmp_path / "search.json")
    rest.evaluate = lambda sizes: calls.append(sizes) or accuracy(sizes)
    whole = search()
    assert rest.run(log=lambda line: None) == whole.run(log=lambda line: None)
    assert len(calls) - 1 == len(whole.scores)  # only the call that was interrupted comes twice


def test_impossible_limits_are_explained():
    with pytest.raises(ValueError, match="raise the limit"):
        search(limit=10).run(log=lambda line: None)
    with pytest.raises(ValueError, match="at most 4"):
        SearchSpace(**{**SPACE, "depths": (3, 6)})


def test_the_best_are_kept_without_repetitions():
    s = search()
    s.scores = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0}
    assert s.best(["a", "b", "c", "b", "d"], 3) == ["b", "d", "c"]  # of equals the first


def test_the_limits_themselves_are_allowed():
    sizes = {"prompt": [1, 0, 0, 0], "lora": [1, 0, 0, 0], "adapter": [1, 0, 0, 0]}
    count = SearchSpace(**SPACE).params(sizes)
    assert search(limit=count, least=count).legal(sizes)
    assert not search(limit=count - 1).legal(sizes)
    assert not search(least=count + 1, limit=10**9).legal(sizes)
    twice = search(limit=10**9)
    assert [twice.legal(sizes), twice.legal(sizes)] == [True, False]  # new ones only


def test_parents_are_the_best(monkeypatch):
    """Children come from the best four of all that were kept, in every epoch."""
    s, seen = search(epochs=3), []
    plain = s.mutate
    monkeypatch.setattr(s, "mutate", lambda rng, parents: seen.append(list(parents)) or plain(rng, parents))
    s.run(log=lambda line: None)
    assert {len(parents) for parents in seen} == {4}
    ranked = sorted(s.kept, key=lambda k: -s.scores[k])
    assert [s.scores[p] for p in seen[-1]] == [s.scores[k] for k in ranked[:4]]


def test_the_population_is_the_best_of_all_that_ever_were():
    """The last epoch's new candidates are judged and no longer taken in."""
    s = search(epochs=5)
    s.run(log=lambda line: None)
    taken_in = sorted((s.scores[k] for k in s.scores if k not in s.candidates), reverse=True)
    assert len(taken_in) > 30
    assert [s.scores[k] for k in s.kept] == taken_in[:12]


def test_a_child_takes_each_kind_from_one_of_two_parents():
    kinds = ("prompt", "lora", "adapter")
    one, two = ({kind: [size, 0, 0, 0] for kind in kinds} for size in (1, 3))
    rng, s = np.random.default_rng(0), search()
    children = [s.cross(rng, [json.dumps(one), json.dumps(two)]) for _ in range(100)]
    assert all(child[kind] in (one[kind], two[kind]) for child in children for kind in kinds)
    mixed = sum(len({child[kind][0] for kind in kinds}) == 2 for child in children)
    assert 20 < mixed < 60  # different parents in half of the cases, of which three quarters mix


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_mutations_are_as_rare_as_asked(prob):
    """A kind that changes gets the depth that its parent does not have."""
    parent = {kind: [3, 0, 0, 0] for kind in ("prompt", "lora", "adapter")}
    s, rng = Search(SearchSpace(**{**SPACE, "depths": (4,)}), accuracy, mutation_prob=prob, depth_prob=1.0), None
    rng = np.random.default_rng(1)
    changed = [
        child[kind] != parent[kind]
        for child in (s.mutate(rng, [json.dumps(parent)]) for _ in range(200))
        for kind in parent
    ]
    assert np.mean(changed) == pytest.approx(prob, abs=0.06)
