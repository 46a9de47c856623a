"""Which epoch is the best: of curves that fall again, have equals, go down or are resumed."""

import json
from types import SimpleNamespace

import pytest
from mmengine.evaluator import BaseMetric

from tests.engine.toy import CONFIG, write_config
from xmodal.engine import launch
from xmodal.engine.checkpoint import CheckpointHook, read
from xmodal.engine.report import ReportHook

EVERY = CONFIG.replace("val_interval=2", "val_interval=1")  # 4 epochs of 5 steps, each validated


class Scripted(BaseMetric):
    """Says the next value of each curve, whatever was predicted."""

    default_prefix = ""

    def __init__(self, curves, done=0):
        super().__init__()
        self.curves, self.done = curves, done

    def process(self, data_batch, data_samples):
        pass

    def compute_metrics(self, results):
        raise NotImplementedError

    def evaluate(self, size):
        self.done += 1
        return {name: float(values[self.done - 1]) for name, values in self.curves.items()}


def train(folder, options=(), resume=None, done=0, allow=False, **curves):
    metric = f"val_evaluator = dict(type='tests.engine.test_best.Scripted', curves={curves!r}, done={done})\n"
    cfg = launch.prepare(write_config(folder, EVERY + metric), str(folder / "w"), options)
    launch.train(cfg, resume, allow)
    return folder / "w"


def report_of(work):
    return json.loads((work / "report.json").read_text())


def test_the_best_epoch_is_kept_when_the_curve_falls_again(tmp_path):
    work = train(tmp_path, top1=[60, 80, 70, 80])
    best, last = read(work / "best.pth"), read(work / "last.pth")
    assert (best["meta"]["step"], best["meta"]["best"]) == (2 * 5, 80.0)  # the first of equals
    assert (last["meta"]["step"], last["meta"]["best"]) == (4 * 5, 80.0)
    assert not (best["state_dict"]["head.weight"] == last["state_dict"]["head.weight"]).all()


def test_lower_is_better_keeps_the_lowest(tmp_path):
    options = ["default_hooks.checkpoint.best=error", "default_hooks.checkpoint.lower_is_better=true"]
    work = train(tmp_path, options, error=[40, 20, 30, 20], top1=[0, 0, 0, 100])
    assert (read(work / "best.pth")["meta"]["step"], read(work / "best.pth")["meta"]["best"]) == (10, 20.0)
    assert report_of(work)["best"] == {"error": 20.0, "top1": 100.0}


def test_the_metric_that_is_named_decides(tmp_path):
    work = train(tmp_path, ["default_hooks.checkpoint.best=other"], top1=[90, 80, 70, 60], other=[1, 2, 4, 3])
    assert read(work / "best.pth")["meta"]["step"] == 15


def test_the_report_names_the_best_of_a_curve_that_falls_again(tmp_path):
    report = report_of(train(tmp_path, top1=[60, 80, 70, 75]))
    assert report["best"] == {"top1": 80.0}
    assert [e["val"]["top1"] for e in report["epochs"]] == [60.0, 80.0, 70.0, 75.0]


def test_a_resumed_run_remembers_its_best(tmp_path):
    curve = [60, 80, 70, 75]
    short = ["train_cfg.max_epochs=2"]
    assert read(train(tmp_path, short, top1=curve) / "last.pth")["meta"]["best"] == 80.0
    work = train(tmp_path, resume="auto", done=2, allow=True, top1=curve)
    assert read(work / "best.pth")["meta"]["step"] == 10
    assert read(work / "last.pth")["meta"]["best"] == 80.0
    assert report_of(work)["best"] == {"top1": 80.0}
    assert [e["val"]["top1"] for e in report_of(work)["epochs"]] == [60.0, 80.0, 70.0, 75.0]


def hook_calls(steps, due=(), steps_per_epoch=5, max_iters=None, **options):
    """What a checkpoint hook saves: (step, file, validated, weights only), for ends of segments at `steps`."""
    hook, calls = CheckpointHook(**options), []
    hook.save = lambda runner, step, validated, name="last.pth", weights_only=False: calls.append(
        (step, name, validated, weights_only)
    )
    for step in steps:
        loop = SimpleNamespace(
            validation_due=lambda s: s in due, steps_per_epoch=steps_per_epoch, max_iters=max_iters or max(steps)
        )
        hook.after_train_epoch(SimpleNamespace(train_loop=loop, iter=step))
    return calls


def test_which_steps_are_saved():
    ends = [5, 10, 15, 20, 25]
    assert [c[0] for c in hook_calls(ends, every_epochs=2)] == [10, 20, 25]  # and the end
    assert [c[0] for c in hook_calls(ends)] == ends
    assert hook_calls(ends, due=(15,), every_epochs=5)[0] == (15, "last.pth", False, False)
    kept = [c for c in hook_calls(ends, every_epochs=9, keep_epochs=2) if c[1] != "last.pth"]
    assert kept == [(10, "epoch_2.pth", True, True), (20, "epoch_4.pth", True, True)]
    assert [c[0] for c in hook_calls([4, 5, 8, 10, 12], every_epochs=9, every_steps=4)] == [4, 8, 12]


@pytest.mark.parametrize(("step", "saved"), [(3, True), (4, False), (5, False), (6, True)])
def test_saving_in_the_middle_of_an_epoch(step, saved):
    hook, calls = CheckpointHook(every_steps=3), []
    hook.save = lambda runner, step, validated: calls.append((step, validated))
    loop = SimpleNamespace(segment_end=lambda i: 5 * (i // 5 + 1))
    hook.after_train_iter(SimpleNamespace(iter=step - 1, train_loop=loop), 0)
    assert calls == ([(step, True)] if saved else [])


def test_an_unreadable_sample_is_noted_once():
    hook = ReportHook()
    hook.report = {"skipped": []}
    hook.note([{"sample_id": "a", "reason": "x"}, {"sample_id": "b", "reason": "y"}])
    hook.note([{"sample_id": "a", "reason": "x"}])
    assert hook.report["skipped"] == [{"sample_id": "a", "reason": "x"}, {"sample_id": "b", "reason": "y"}]


def test_a_resumed_report_keeps_the_names_of_classes():
    """Killed behind the last validation, a run validates nothing more."""
    hook = ReportHook()
    hook.report = {}
    old = {"classes": ["a", "b"], "best": {"top1": 50.0}, "seconds": 3.0}
    hook.after_load_checkpoint(None, {"report": json.dumps(old)})
    assert hook.report == {"classes": ["a", "b"], "best": {"top1": 50.0}}
