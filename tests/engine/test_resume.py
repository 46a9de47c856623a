"""KilledError anywhere, a run goes on and has the same losses; nothing frozen moves; nothing skipped is read again."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.engine.toy import CONFIG, write_config
from xmodal.data.sampler import EpochSampler, StreamSampler, order_of
from xmodal.engine import launch
from xmodal.engine.checkpoint import LAST, data_key, read
from xmodal.engine.loops import Interrupted
from xmodal.engine.resume import own_sums

STEPS = CONFIG.replace("max_epochs=4, val_interval=2", "max_steps=17, val_interval=6").replace(
    "warmup_epochs=1", "warmup_steps=3"
)


def run(folder, text, work, resume=None, options=(), stop_at=None, allow=False):
    config = write_config(folder, text)
    cfg = launch.prepare(config, str(folder / work), options)
    if stop_at is None:
        return launch.train(cfg, resume, allow)
    cfg.custom_hooks = [dict(type="tests.engine.test_resume.Kill", step=stop_at)]
    with pytest.raises(KilledError):
        launch.train(cfg, resume)
    return None


class KilledError(Exception):
    pass


class Kill:
    """A hook that dies, without saving, after a step."""

    priority = 100

    def __new__(cls, step):
        from mmengine.hooks import Hook

        class _Kill(Hook):
            priority = "LOWEST"

            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                if runner.iter + 1 == step:
                    raise KilledError

        return _Kill()


def losses(folder, work):
    report = json.loads((folder / work / "report.json").read_text())
    return {entry["step"]: (entry["loss"], entry["lr"]) for entry in report["history"]}


def epochs(folder, work):
    found = json.loads((folder / work / "report.json").read_text())["epochs"]
    for entry in found:
        for part in ("train", "val"):
            entry.get(part, {}).pop("seconds", None)
        entry["train"] = {k: pytest.approx(v, rel=1e-5) for k, v in entry["train"].items()}
    return found


def weights(folder, work):
    return read(folder / work / LAST)["state_dict"]


def assert_same(folder, one, other):
    assert losses(folder, one) == losses(folder, other)
    first, second = weights(folder, one), weights(folder, other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


EMA = CONFIG.replace("default_hooks = dict(", "default_hooks = dict(ema=dict(type='ema', decay=0.9), ")


@pytest.mark.parametrize(
    ("text", "every_steps", "kill"),
    [(CONFIG, None, 13), (CONFIG, 3, 13), (EMA, 4, 19), (STEPS, 4, 11), (STEPS, None, 7)],
    ids=["epochs", "mid-epoch", "ema", "steps-mid", "steps"],
)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, text, every_steps, kill):
    options = [f"default_hooks.checkpoint.every_steps={every_steps}"]
    run(tmp_path, text, "whole", options=options)
    run(tmp_path, text, "parts", options=options, stop_at=kill)
    assert read(tmp_path / "parts" / LAST)["meta"]["step"] < kill
    run(tmp_path, text, "parts", resume="auto", options=options)
    assert_same(tmp_path, "whole", "parts")
    assert epochs(tmp_path, "whole") == epochs(tmp_path, "parts")


def test_different_seeds_differ(tmp_path):
    """Else the equalities above would show nothing."""
    run(tmp_path, CONFIG, "a")
    run(tmp_path, CONFIG, "b", options=["randomness.seed=1"])
    assert losses(tmp_path, "a") != losses(tmp_path, "b")


def test_killed_while_validating_validates_again(tmp_path, monkeypatch):
    from xmodal.engine import loops

    run(tmp_path, CONFIG, "whole")

    def die(self, batch):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(loops._EvalLoop, "predict", die)
        with pytest.raises(KilledError):
            run(tmp_path, CONFIG, "parts")
    assert not read(tmp_path / "parts" / LAST)["meta"]["validated"]
    run(tmp_path, CONFIG, "parts", resume="auto")
    assert_same(tmp_path, "whole", "parts")
    assert [e["step"] for e in epochs(tmp_path, "parts") if "val" in e] == [10, 20]


def test_resume_reads_nothing_it_skips(tmp_path):
    text = CONFIG.replace("size=_size", f"size=_size, log={str(tmp_path / 'log')!r}")
    options = ["default_hooks.checkpoint.every_steps=3"]
    run(tmp_path, text, "w", options=options, stop_at=13)
    first = (tmp_path / "log").read_text().split("\n")[:-1]
    (tmp_path / "log").unlink()
    run(tmp_path, text, "w", resume="auto", options=options)
    second = (tmp_path / "log").read_text().split("\n")[:-1]
    assert len(second) == 4 * 24 - (24 * 2 + 2 * 5)  # the checkpoint was of step 12: two epochs and two batches
    assert not set(second) & set(first[: 24 * 2 + 10])
    assert set(first) | set(second) == {f"{e} {i}" for e in range(4) for i in range(24)}


def test_interrupt_finishes_the_step_and_saves(tmp_path):
    config = write_config(tmp_path, CONFIG)
    run(tmp_path, CONFIG, "whole")
    cfg = launch.prepare(config, str(tmp_path / "parts"))
    cfg.custom_hooks = [dict(type="tests.engine.test_resume.ask_to_stop", step=8)]
    with pytest.raises(Interrupted):
        launch.train(cfg)
    assert read(tmp_path / "parts" / LAST)["meta"]["step"] == 8
    assert json.loads((tmp_path / "parts" / "report.json").read_text())["status"] == "stopped"
    run(tmp_path, CONFIG, "parts", resume="auto")
    assert_same(tmp_path, "whole", "parts")


def ask_to_stop(step):
    import os
    import signal

    from mmengine.hooks import Hook

    class Ask(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == step:
                os.kill(os.getpid(), signal.SIGINT)

    return Ask()


def test_resume_without_a_checkpoint_starts(tmp_path):
    run(tmp_path, CONFIG, "w", resume="auto")
    assert read(tmp_path / "w" / LAST)["meta"]["step"] == 20


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("train_dataloader.batch_size=6", "global_batch was 5 and is 6"),
        ("randomness.seed=5", "seed was 0 and is 5"),
        ("train_dataloader.dataset.size=25", "samples was 24 and is 25"),
        ("train_cfg.max_epochs=2", "beyond the 10 steps"),
        ("model.weights=8", "trained on encoder toy"),
        ("model.dim=7", "trained on encoder toy"),
        ("optim_wrapper.paramwise_cfg.no_decay=[]", r"no_decay.0: was '.bias', is not set. --allow-changes"),
    ],
)
def test_resume_refuses_another_run(tmp_path, finished, option, message):
    shutil.copytree(finished, tmp_path / "w")
    with pytest.raises(ValueError, match=message):
        run(tmp_path, CONFIG, "w", resume="auto", options=[option])


RATE, DECAY = "optim_wrapper.optimizer.lr=0.02", "optim_wrapper.optimizer.weight_decay=0.5"


def test_rates_given_anew_take_effect(tmp_path):
    """The rest of the run has the new rate at every step of the same curve, and the new decay; the past stays."""
    run(tmp_path, CONFIG, "whole")
    options = ["default_hooks.checkpoint.every_steps=3"]
    run(tmp_path, CONFIG, "w", options=options, stop_at=13)
    runner = run(tmp_path, CONFIG, "w", resume="auto", options=[*options, RATE, DECAY])
    old, new = losses(tmp_path, "whole"), losses(tmp_path, "w")
    assert [new[s][1] for s in range(1, 13)] == [old[s][1] for s in range(1, 13)]
    assert [new[s][1] for s in range(13, 21)] == pytest.approx([2 * old[s][1] for s in range(13, 21)])
    assert [g["weight_decay"] for g in runner.optim_wrapper.optimizer.param_groups] == [0.5, 0.0]


@pytest.mark.parametrize(
    "option",
    [
        "model.dropout=0.1",
        "param_scheduler.warmup_epochs=2",
        "optim_wrapper.optimizer.eps=0.003",
        "train_cfg.max_epochs=6",
    ],
)
def test_settings_that_change_the_mathematics_are_refused_unless_allowed(tmp_path, finished, option):
    shutil.copytree(finished, tmp_path / "w")
    key, _, value = option.partition("=")
    with pytest.raises(ValueError, match=rf"{key}: was .*, is .*{value[-1]}.*--allow-changes"):
        run(tmp_path, CONFIG, "w", resume="auto", options=[option])
    run(tmp_path, CONFIG, "w", resume="auto", options=[option], allow=True)


def test_how_a_run_is_carried_out_may_change(tmp_path, finished, caplog):
    shutil.copytree(finished, tmp_path / "w")
    options = ["train_dataloader.num_workers=1", "val_dataloader.batch_size=2", "train_cfg.batch_split=2"]
    run(tmp_path, CONFIG, "w", resume="auto", options=options)


def test_other_labels_of_the_same_number_of_samples_are_refused(tmp_path):
    def listed(labels):
        samples = [SimpleNamespace(sample_id=f"{i}.mp4", label=y) for i, y in enumerate(labels)]
        return data_key(SimpleNamespace(samples=samples))

    assert listed([0, 1, 2]) == listed([0, 1, 2]) != listed([0, 2, 1])
    for unlisted in (None, np.zeros((3, 4)), ["a.mp4"]):
        assert data_key(SimpleNamespace(samples=unlisted)) is None


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_samples_come_in_the_same_order_for_any_number_of_processes(world):
    """The union of the processes' batches of every step, in epochs and in steps."""
    for kind in ("epochs", "steps"):
        per_process = []
        for rank in range(world):
            if kind == "epochs":
                sampler = EpochSampler(48, seed=3, rank=rank, world=world)
                sampler.seek(2, 16 // world)
            else:
                sampler = StreamSampler(48, total=80 // world, seed=3, rank=rank, world=world)
                sampler.seek(0, 16 // world)
            per_process.append(list(sampler))
        merged = [key for keys in zip(*per_process, strict=True) for key in keys]
        if kind == "epochs":
            assert merged == [(2, int(i)) for i in order_of(48, 3, 2)[16:]]
        else:
            first = [(0, int(i)) for i in order_of(48, 3, 0)[16:]]
            assert merged == first + [(1, int(i)) for i in order_of(48, 3, 1)[:32]]


def test_sums_of_an_unfinished_epoch_go_to_any_number_of_processes():
    first, second = (
        [[{"loss": 6.0}, 3, 12.0], [{"loss": 1.0}, 1, 4.0]],
        [[{"loss": 2.0}, 3, 4.0], [{"loss": 3.0}, 1, 1.0]],
    )
    assert own_sums([7, [first, second]], 1, 2) == [7, *second]
    assert own_sums([7, [first, second]], 0, 1) == [7, [{"loss": 8.0}, 3, 16.0], [{"loss": 4.0}, 1, 5.0]]
    shares = [own_sums([7, [first, second]], rank, 4)[1] for rank in range(4)]
    assert (sum(s[0]["loss"] for s in shares), sum(s[2] for s in shares)) == (8.0, 16.0)
    older = [7, [{"loss": 6.0}, 3, 12.0]]
    assert own_sums(older, 0, 1) == [7, [{"loss": 6.0}, 3, 12.0], [{}, 0, 0.0]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(folder, CONFIG, "w")
    return folder / "w"


def test_frozen_tensors_are_bit_identical_after_training(tmp_path):
    from tests.engine.toy import ToyModel

    fresh = ToyModel().encoder.state_dict()
    trained = run(tmp_path, CONFIG, "w").model.encoder.state_dict()
    assert fresh.keys() == trained.keys()
    assert all(torch.equal(fresh[k], trained[k]) for k in fresh)


def test_parts_of_a_batch_add_up(tmp_path):
    text = CONFIG.replace("dropout=0.3", "dropout=0.0, norm=False")
    whole = run(tmp_path, text, "whole")
    parts = run(tmp_path, text, "parts", options=["train_cfg.batch_split=3"])
    assert whole.iter == parts.iter == 20
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(value, parts.model.state_dict()[name], atol=1e-6, rtol=1e-5)
    first, second = losses(tmp_path, "whole"), losses(tmp_path, "parts")
    assert all(first[s][0] == pytest.approx(second[s][0], abs=1e-4) and first[s][1] == second[s][1] for s in first)


def test_a_run_without_progress_has_the_same_report(tmp_path):
    """The loop feeds the report; nothing depends on what is shown."""
    run(tmp_path, CONFIG, "shown")
    run(tmp_path, CONFIG, "silent", options=["default_hooks.progress=none"])
    shown, silent = (json.loads((tmp_path / w / "report.json").read_text()) for w in ("shown", "silent"))
    assert epochs(tmp_path, "shown") == epochs(tmp_path, "silent")
    assert len(silent["epochs"]) == 4
    assert silent["best"] == shown["best"] != {}
    assert silent["status"] == "finished"
    last = silent["history"][-1]
    assert last["step"] == 20
    assert {"loss", "lr", "per_second"} <= last.keys()


def test_a_test_without_progress_writes_its_result(tmp_path):
    config = write_config(tmp_path)
    launch.train(launch.prepare(config, str(tmp_path / "w")))
    cfg = launch.prepare(config, str(tmp_path / "w"), ["default_hooks.progress=none"])
    metrics = launch.evaluate(cfg, str(tmp_path / "w" / "last.pth"))
    assert json.loads((tmp_path / "w" / "test.json").read_text())["test"]["top1"] == metrics["top1"]


def test_a_resumed_curve_has_the_means_of_its_whole_window(tmp_path):
    """Points of the curve lie four steps apart and at the ends of epochs; the kill is between two of them."""
    options = ["default_hooks.progress.interval=4", "default_hooks.checkpoint.every_steps=1"]
    run(tmp_path, CONFIG, "whole", options=options)
    run(tmp_path, CONFIG, "parts", options=options, stop_at=8)
    run(tmp_path, CONFIG, "parts", resume="auto", options=options)
    one, two = losses(tmp_path, "whole"), losses(tmp_path, "parts")
    assert one.keys() == two.keys() == {4, 5, 8, 10, 12, 15, 16, 20}
    assert one == two


@pytest.mark.parametrize("step", [5, 10])  # the ends of an epoch without and with a validation
def test_a_stop_in_the_last_step_of_an_epoch_ends_that_epoch(tmp_path, step):
    options = ["default_hooks.checkpoint.keep_epochs=1"]
    run(tmp_path, CONFIG, "whole", options=options)
    cfg = launch.prepare(write_config(tmp_path, CONFIG), str(tmp_path / "parts"), options)
    cfg.custom_hooks = [dict(type="tests.engine.test_resume.ask_to_stop", step=step)]
    with pytest.raises(Interrupted, match=f"stopped after step {step}"):
        launch.train(cfg)
    assert (tmp_path / "parts" / f"epoch_{step // 5}.pth").exists()
    run(tmp_path, CONFIG, "parts", resume="auto", options=options)
    assert_same(tmp_path, "whole", "parts")
    assert epochs(tmp_path, "whole") == epochs(tmp_path, "parts")


def test_a_resumed_report_names_what_was_replaced_before_the_kill(tmp_path):
    text = CONFIG.replace("size=_size)", "size=_size, broken=[7])")
    options = ["default_hooks.checkpoint.every_steps=1"]
    run(tmp_path, text, "whole", options=options)
    step = next(i for i in range(5) if 7 in order_of(24, 0, 0)[5 * i : 5 * i + 5]) + 1
    run(tmp_path, text, "parts", options=options, stop_at=step)
    run(tmp_path, text, "parts", resume="auto", options=options)
    skipped = [json.loads((tmp_path / w / "report.json").read_text())["skipped"] for w in ("whole", "parts")]
    assert skipped[0] == skipped[1] == [{"sample_id": "s7", "reason": "broken"}]
