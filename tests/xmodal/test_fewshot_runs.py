"""What the runs of a few-shot grid select, average, keep and write down, on scripted heads and features."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.xmodal.clips import small_clip
from xmodal.data.collate import collate
from xmodal.evaluation.bench import Bench, Source, accuracy
from xmodal.evaluation.domain_search import RUN_SPACE, DomainSearchRun, drawn
from xmodal.evaluation.fit import COOP_EPOCHS, KeyTraining, dassl_optimizer, epochs_for, minibatches
from xmodal.evaluation.image_runs import DomainRun, ImageRun, columns_of
from xmodal.evaluation.plans import Coop11, Outcome, Part, Plan, Tip
from xmodal.evaluation.results import spread
from xmodal.evaluation.run_grid import RunGrid, format_table
from xmodal.evaluation.runs import CacheRun, CaFoRun, PromptRun
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.toys.shape_images import ShapeImages

# a head whose accuracy is written down for every step


class ScriptedHead(nn.Module):
    """Counts its steps in a weight; right about the first so many of ten samples, as its curves say of a domain."""

    def __init__(self, in_dim, class_names, clip, curves):
        super().__init__()
        self.steps, self.curves = nn.Parameter(torch.zeros(1)), curves

    def loss_over_domains(self, features, labels):
        return {"loss": -self.steps.sum()}  # a rate of 1 adds 1 a step

    def forward(self, feature):
        domain, number = feature[:, 0].long(), feature[:, 1]
        right = torch.tensor([self.curves[d][round(self.steps.item()) - 1] / 10 for d in domain.tolist()])
        hit = number < right
        return torch.stack([hit, ~hit], 1).float()


def domains(curves, tests=1, **options):
    """The outcome of a run of as many steps as the curves have values, the last `tests` of them held out."""

    def features(part, epoch=None):
        return torch.tensor([[float(part.source), float(i)] for i in part.indices])

    part = lambda d: Part(str(d), "train", list(range(10)), [0] * 10, ["a", "b"])  # noqa: E731
    trained = range(len(curves) - tests)
    plan = Plan(
        "domainbed", -1, 0, [part(d) for d in trained], [part(d) for d in trained], {"held": part(len(trained))}
    )
    bench = SimpleNamespace(width=2, clip=None, device="cpu", features=features)
    given = dict(steps=len(curves[0]), interval=1, lr=1.0, momentum=0.0, batch_size=4)
    return DomainRun(dict(type=ScriptedHead, curves=curves), **{**given, **options})(bench, plan)


def test_domains_are_tested_with_the_selected_weights():
    """Validation rises and falls again; the test set tells by its own curve which step's weights were used."""
    val, held = [60, 80, 70, 80], [10, 20, 30, 40]
    found = domains([val, held])
    assert found.scores == {"held": 20.0}
    assert found.head.steps.item() == 2
    assert (found.selected_on, found.details) == ("val", {"selected": 1, "val": [60.0, 80.0, 70.0, 80.0]})
    last = domains([val, held], select_on="last")
    assert (last.scores, last.details["selected"]) == ({"held": 40.0}, 3)
    sparse = domains([[0, 9, 10, 9, 30, 20], [10, 20, 30, 40, 50, 60]], interval=2)  # steps 0, 2, 4 and the last
    assert sparse.details == {"selected": 4, "val": [0.0, 10.0, 30.0, 20.0]}
    assert sparse.scores == {"held": 50.0}
    late = domains([[0, 9, 10, 90], [10, 20, 30, 40]], interval=2)
    assert (late.details["selected"], late.scores) == (3, {"held": 40.0})


def test_the_mean_over_domains_selects():
    assert domains([[90, 60, 50], [10, 60, 50], [10, 20, 30]]).details["val"] == [50.0, 60.0, 50.0]
    assert domains([[90, 60, 50], [10, 60, 50], [10, 20, 30]]).scores == {"held": 20.0}


# small rules


def test_epochs_by_shots():
    assert COOP_EPOCHS == {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}
    assert [epochs_for(k, COOP_EPOCHS) for k in (1, 3, 8, 20)] == [50, 100, 200, 200]
    assert epochs_for(1, {2: 7, 4: 9}) == 7
    assert epochs_for(1, 30) == 30


def test_accuracy_weighs_samples_not_batches():
    """Two right of three in a batch, one right of one in the next: 3 of 4."""
    feature = torch.eye(2)[[0, 0, 1, 1]]
    assert accuracy(lambda f: f, feature, [0, 0, 0, 1], batch=3) == pytest.approx(75)


def test_the_incomplete_batch_is_dropped_where_there_is_a_complete_one():
    sizes = lambda *a, **k: [len(rows) for rows in minibatches(*a, seed=(1, 2, 3), **k)]  # noqa: E731
    assert sizes(10, 4) == [4, 4]
    assert sizes(10, 4, drop_last=False) == [4, 4, 2]
    assert sizes(3, 4) == [3]
    rows = torch.cat(list(minibatches(10, 4, (1, 2, 3), drop_last=False)))
    assert sorted(rows.tolist()) == list(range(10))
    assert rows.tolist() != torch.cat(list(minibatches(10, 4, (1, 2, 4), drop_last=False))).tolist()


def test_dassls_optimizer():
    optimizer, rates = dassl_optimizer([nn.Parameter(torch.zeros(1))], 0.002, 50)
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
    assert rates[:2] == [1e-5, 0.002]
    assert len(rates) == 50
    recipe = PromptRun({})
    assert (recipe.lr, recipe.batch_size, recipe.warmup_epochs) == (0.002, 32, 1)


def test_a_task_is_tested_among_its_own_classes():
    part = lambda source, classes: Part(source, "test", [], [], list(classes))  # noqa: E731
    tasks = [part("one", "abc"), part("two", "xy"), part("three", "pq")]
    assert columns_of(tasks, part("one", "abc")) == [0, 1, 2]
    assert columns_of(tasks, part("two", "xy")) == [3, 4]
    assert columns_of(tasks, part("three", "pq")) == [5, 6]
    assert columns_of(tasks, part("elsewhere", "pay")) == [5, 0, 4]  # by name, where a set is no task
    with pytest.raises(ValueError, match="'z' was not trained"):
        columns_of(tasks, part("elsewhere", "az"))


def test_the_text_context_has_its_own_rate():
    model = SimpleNamespace(head=nn.ParameterDict({"ctx": torch.zeros(2), "visual": torch.zeros(3)}))
    (other, slow), (text, quick) = ImageRun({}, lr=0.01, text_lr=0.002, warmup_epochs=10).optimizers(model, 60)
    assert [p.numel() for p in other.param_groups[0]["params"]] == [3]
    assert [p.numel() for p in text.param_groups[0]["params"]] == [2]
    assert (slow[:10], quick[0]) == ([1e-5] * 10, 1e-5)
    assert (slow[10], quick[1]) == (0.01, 0.002)
    ((both, rates),) = ImageRun({}, lr=0.01).optimizers(model, 60)
    assert sum(p.numel() for p in both.param_groups[0]["params"]) == 5
    assert rates[1] == 0.01


# on a bench


def source(name="plain", style="plain", colors=("red", "blue"), shapes=("ring", "cross")):
    make = lambda split, n, **k: ShapeImages(split, n, shapes, colors, style, size=16, **k)  # noqa: E731
    return Source(
        name, make("train", 4, augment=True, scale=(0.6, 1.0)), make("train", 4), make("val", 2), make("test", 3)
    )


@pytest.fixture
def bench():
    return Bench(small_clip(), [source()], views=3)


def plan_of(bench, protocol=None, shots=2):
    return (protocol or Coop11()).plan(bench.sources[0].labeled(), shots, 1)


def test_features_are_the_towers_answer_to_the_view(bench):
    part = plan_of(bench).train[0]
    data, visual = bench.sources[0].train, bench.clip.visual
    for epoch, key in ((None, None), (1, 1), (4, 1)):  # of three views the fifth epoch sees the second
        items = [bench.sources[0].plain[i] if epoch is None else data[key, i] for i in part.indices]
        pixels = torch.stack([item["image"] for item in items]) / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (visual.pixel_mean, visual.pixel_std))
        want = visual((pixels - mean) / std)
        assert torch.allclose(bench.features(part, epoch), want, atol=1e-5)


def test_keys_are_means_over_the_passes(bench):
    plan = plan_of(bench, Tip())
    head = CacheRun(passes=3, steps=(3, 2))(bench, plan).head
    raw = sum(bench.features(plan.train[0], a) for a in range(3)) / 3
    assert torch.allclose(head.keys, nn.functional.normalize(raw, dim=-1), atol=1e-6)
    assert torch.equal(head.values, torch.eye(4)[plan.train[0].labels])


@pytest.mark.parametrize(("select_on", "split"), [("val", "val"), ("test", "test")])
def test_the_set_that_is_asked_for_chooses_the_epoch(bench, monkeypatch, select_on, split):
    asked, plain = [], bench.features
    monkeypatch.setattr(bench, "features", lambda part, *a: asked.append(part.split) or plain(part, *a))
    recipe = CacheRun(finetune=True, epochs=1, passes=1, steps=(2, 2), select_on=select_on)
    plan = plan_of(bench)
    head = CacheRun(passes=1, steps=(2, 2))(bench, plan).head
    asked.clear()
    recipe.fit(bench, plan, plan.train, plan.val[0], head)
    assert asked[0] == split
    assert recipe(bench, plan).selected_on == select_on


@pytest.mark.parametrize("key", [("clip", "plain", "train", "plain"), ("clip", "plain", "train", "view1")])
def test_kept_features_belong_to_an_encoder_and_a_split(tmp_path, key):
    def file(seed=0, per_class=4):
        torch.manual_seed(seed)
        images = ShapeImages("train", per_class, size=16)
        return Bench(small_clip(), [Source("plain", images, val=images)], cache=tmp_path).name(key)

    assert file() == file()
    assert file(seed=1) != file()
    assert file(per_class=5) != file()


@pytest.mark.parametrize(
    "changed",
    [
        dict(size=32),
        dict(seed=1),
        dict(scale=(0.5, 1.0)),
        dict(flip=False),
        dict(colors=("red", "green")),
        dict(style="gray"),
    ],
    ids=str,
)
def test_kept_features_belong_to_a_view(bench, tmp_path, changed):
    """Pictures of the same names and labels that are cut, mirrored or drawn in another way are other pictures."""

    def file(**options):
        images = ShapeImages("train", 4, **{"size": 16, "augment": True, **options})
        images.ids = [f"{i}.png" for i in range(len(images))]
        other = Bench(bench.clip, [Source("plain", images, val=images)], cache=tmp_path)
        return other.name(("clip", "plain", "train", "view0"))

    assert file() == file()
    assert file(**changed) != file()


def test_results_of_another_recipe_protocol_or_data_are_run_again(bench, tmp_path):
    recipe = CacheRun(passes=1, steps=(2, 2))
    version = RunGrid(bench, Coop11(), {"tip": recipe}, tmp_path).version("tip")
    assert RunGrid(bench, Coop11(), {"tip": recipe}, tmp_path).version("tip") == version
    other = [
        RunGrid(bench, Coop11(), {"tip": dataclasses.replace(recipe, alpha=2.0)}, tmp_path),
        RunGrid(bench, Tip(), {"tip": recipe}, tmp_path),
        RunGrid(Bench(bench.clip, [source(style="gray")], views=3), Coop11(), {"tip": recipe}, tmp_path),
        RunGrid(Bench(bench.clip, [source()], views=4), Coop11(), {"tip": recipe}, tmp_path),
    ]
    assert version not in {grid.version("tip") for grid in other}


def test_the_table_shows_mean_and_sample_deviation():
    """Of 60, 70 and 80 the mean is 70 and the sample's standard deviation 10."""
    assert spread([60.0, 70.0, 80.0]) == "70.00 +- 10.00"
    assert spread([61.5]) == "61.50"
    rows = [
        dict(method="m", shots=k, scores={"set": s}, selected_on="val", details={})
        for k, s in ((1, 60.0), (1, 80.0), (16, 90.0), (16, 70.0), (16, 80.0))
    ]
    assert "| m | 70.00 +- 14.14 | 80.00 +- 10.00 |" in format_table(rows)


def test_masked_tasks_compete_among_themselves():
    """The task's number that a loss is given is that of the part a sample comes from."""
    torch.manual_seed(0)
    bench = Bench(small_clip(), [source("one"), source("two", colors=("green",))])
    run = ImageRun(dict(type=MVLPTHead, n_ctx=2, n_visual=0), epochs=1, mask_tasks=True)
    parts = [plan_of(bench).train[0], Coop11().plan(bench.sources[1].labeled(), 2, 1).train[0]]
    model = run.build(bench, [c for p in parts for c in p.classes], parts)
    assert model.head.task_sizes == {"one": 4, "two": 2}
    batch = model.data_preprocessor(collate([{**bench.source("two").train[0, 0], "label": 4}]))
    logits = model(mode="tensor", image=batch["image"]).double()
    want = -logits[:, 4:].log_softmax(1)[0, 0]
    assert run.loss(model, batch, torch.tensor([1])).item() == pytest.approx(want.item(), abs=1e-4)


def test_synthetic_shots_are_of_the_training_classes_by_name():
    """Their source may name the classes in another order, and more of them."""
    made = SimpleNamespace(classes=["dog", "cat", "owl"], labels=[0, 0, 1, 1, 2, 2])
    bench = SimpleNamespace(source=lambda name: SimpleNamespace(train=made))
    train = Part("real", "train", [0, 1], [0, 1], ["cat", "dog"])
    (part,) = CaFoRun(synthetic="made", synthetic_shots=2).synthetic_part(bench, train)
    assert sorted(zip(part.indices, part.labels, strict=True)) == [(0, 1), (1, 1), (2, 0), (3, 0)]
    assert part.classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="no synthetic images of class 'fox'"):
        CaFoRun(synthetic="made").synthetic_part(bench, dataclasses.replace(train, classes=["cat", "fox"]))


@pytest.mark.parametrize(("official", "want"), [(True, 5 * 2), (False, None)])
def test_cafos_cosine_counts_real_batches_as_the_release_does(bench, monkeypatch, official, want):
    """7 real images in batches of 4 are 2 steps an epoch; synthetic ones add steps that the release does not count."""
    asked = []
    monkeypatch.setattr(
        "xmodal.evaluation.runs.fit_keys", lambda *a, period, **k: asked.append(period) or KeyTraining()
    )
    monkeypatch.setattr(CaFoRun, "look", lambda *a: (None, None))
    parts = [Part("plain", "train", list(range(n)), [0] * n, ["a", "b"]) for n in (7, 3)]
    head = SimpleNamespace(keys=None, second_keys=None)
    CaFoRun(official=official, epochs=5, batch_size=4).fit(bench, plan_of(bench), parts, parts[0], head)
    assert asked == [want]


def test_prompts_train_for_all_epochs_and_the_last_step_is_tested(bench):
    """The rate of epoch 0 is the warm-up's; losses are means over the steps of an epoch."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))
            self.seen = []

        def loss(self, feature, label):
            self.seen.append(len(label))
            return {"loss": self.w.sum() * 0 + len(self.seen)}

    head, plan = Head(), plan_of(bench)
    losses = PromptRun({}, epochs={1: 2, 2: 3, 4: 9}, batch_size=4).fit(bench, plan, plan.train[0], head)
    assert head.seen == [4] * 6  # 2 shots of 4 classes
    assert losses == [1.5, 3.5, 5.5]


def test_draws_of_hyperparameters_are_chosen_on_the_training_domains(monkeypatch):
    """Draw 0 has the defaults; of three draws the one best on validation is reported, whatever the test says."""
    seen = []

    def run(self, bench, plan):
        seen.append((self.lr, dict(self.head)))
        val, test = [(50.0, 90.0), (70.0, 40.0), (60.0, 95.0)][len(seen) - 1]
        return Outcome({"held": test}, "val", 1, {"val": [10.0, val]})

    monkeypatch.setattr(DomainRun, "__call__", run)
    search = DomainSearchRun(dict(type=ScriptedHead, n_ctx=4), lr=0.5, draws=3)
    outcome = search(None, Plan("domainbed", -1, 7, [], [], {}))
    assert outcome.scores == {"held": 40.0}
    assert outcome.details["best_on_test"] == 95.0
    assert [e["val"] for e in outcome.details["draws"]] == [50.0, 70.0, 60.0]
    assert seen[0] == (0.5, dict(type=ScriptedHead, n_ctx=4))
    assert len({lr for lr, _ in seen}) == 3
    assert all(10**-4.5 <= lr <= 10**-2.5 for lr, _ in seen[1:])
    assert drawn(RUN_SPACE, 3, 7) == drawn(RUN_SPACE, 3, 7) != drawn(RUN_SPACE, 3, 8)
