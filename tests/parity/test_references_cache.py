"""Cache and feature methods, with their training, against formulas in float64: other sizes, options, batches."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_cache as cache
from tests.parity.test_references_prompts import about, rows

LABELS = [n % 3 for n in range(25)]


@pytest.mark.parametrize("shots", [1, 5])
def test_tip_adapter(shots):
    own = [c for c in range(3) for _ in range(shots)]
    arch = dict(n_classes=3, shots=shots, feature_dim=9, augment_epochs=2, search_scale=[7, 3], search_step=[9, 4],
                init_beta=1.5, init_alpha=1.17, train_epoch=3, batch_size=4, lr=0.004, adamw_eps=1e-4,
                adamw_weight_decay=0.05)  # fmt: skip
    inputs = dict(centers=[3, 9], text=[3, 9], train_features=[2, len(own), 9], val_features=[25, 9],
                  test_features=[25, 9], noise=1.9, text_factor=0.7, train_labels=own, val_labels=LABELS,
                  test_labels=LABELS[::-1])  # fmt: skip
    case = dict(system="tip_adapter", seed=102, arch=arch, state={"adapter.weight": [len(own), 9]}, inputs=inputs)
    r.judge(case | {"tolerance": "abs 1e-4 + 1e-5*|value|"}, cache.tip)


def test_cafo():
    own = [0, 0, 1, 1, 2, 2, 0, 1, 2]
    arch = dict(n_classes=3, shots=2, dalle_shots=1, clip_dim=7, dino_dim=10, search_scale=[9, 4], search_step=[7, 5],
                init_beta=2.0, init_alpha=0.6)  # fmt: skip
    inputs = dict(clip_centers=[3, 7], dino_centers=[3, 10], text=[3, 7], clip_keys=[9, 7], dino_keys=[9, 10],
                  clip_val=[25, 7], dino_val=[25, 10], clip_test=[25, 7], dino_test=[25, 10], noise=1.4,
                  cache_labels=own, val_labels=LABELS, test_labels=LABELS[::-1], text_factor=0.9)  # fmt: skip
    state = {"clip_adapter.weight": [9, 7], "dino_adapter.weight": [9, 10]}
    case = dict(system="cafo", seed=103, arch=arch, state=state, inputs=inputs)
    r.judge(case | {"tolerance": "abs 1e-4 + 1e-5*|value|"}, cache.cafo)


@pytest.mark.parametrize(("shots", "every", "momentum"), [(1, 3, 0.9), (6, 7, 0.5)])
def test_lp_plus_plus(shots, every, momentum):
    own = [c for c in range(3) for _ in range(shots)]
    arch = dict(n_classes=3, shots=shots, feature_dim=6, train_epoch=22, momentum=momentum, alpha_every=every,
                alpha_factor=40, shown=[0, 3, 7, 21])  # fmt: skip
    inputs = dict(centers=[3, 6], text=[3, 6], train_features=[len(own), 6], val_features=[25, 6],
                  test_features=[25, 6], noise=1.3, text_factor=0.8, train_labels=own, val_labels=LABELS,
                  test_labels=LABELS[::-1])  # fmt: skip
    outputs = {"alpha_at_epochs_after": "alpha in the forward of epochs [0, 3, 7, 21]"}
    case = dict(system="lp_plus_plus", seed=104, arch=arch, state={"classifier.bias": [3]}, inputs=inputs)
    r.judge(case | {"outputs": outputs, "tolerance": "abs 5e-4 + 1e-4*|value|"}, cache.lp)


TRAINED = {"train_image_0": [3, 3, 12, 12], "train_image_1": [2, 3, 12, 12], "train_labels": [[0, 1, 2], [2, 0]]}


def test_taskres():
    templates = [rows(n, words) for n, words in ((1, 6), (2, 7), (4, 5))]
    training = dict(weight_decay=0.02, lr=0.03, max_epoch=4, warmup_epochs=2, warmup_cons_lr=1e-3)
    variants = {"regular": {"text_projection": "that of state"}, "enhanced": {"text_projection": "extra_state.weight"}}
    case = about("taskres", dict(residual_scale=0.8), {"template_tokens": templates, "label": [0, 1], **TRAINED},
                 variants=variants, training=training, extra_state={"weight": [35, 40]},
                 trainable={"prompt_learner.text_feature_residuals": [5, 35]})  # fmt: skip
    r.judge(case | {"tolerance": "abs 3e-4 + 1e-4*|value|"}, cache.taskres)


def test_two_stages():
    plain = dict(ln_vision_start=1, ln_text_start=1, n_iters=3, shots=1, lr=0.003, wd=0.2, total_steps=5)
    variants = {
        "text": dict(plain, peft="ln", ln_modality="text", stage1_steps=3),
        "both": dict(plain, peft="ln", ln_modality="both", stage1_steps=2),
        "biases": dict(plain, peft="bitfit", ln_modality="vision", stage1_steps=4, encoder="vision"),
    }
    case = about("two_stage_few_shot", dict(n_base=3, n_new=2), {"tokens": rows(2, 6), **TRAINED})
    for v in variants.values():
        v["trained_in_stage1"] = list(cache.two_stage_keys(v, case["arch"]))
    r.judge(case | {"variants": variants, "tolerance": "abs 1e-3 + 1e-3*|value|"}, cache.two_stage)
