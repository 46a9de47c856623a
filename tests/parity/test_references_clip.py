"""Methods inside CLIP's towers against formulas in float64, at sizes and with options that no shipped case has."""

import itertools

from tests.parity import _reference as r
from tests.parity import _reference_clip as clip

ARCH = dict(embed_dim=10, image_resolution=12, vision_layers=4, vision_width=56, vision_heads=7, patch_size=4,
            context_length=11, vocab_size=40, text_width=40, text_heads=5, text_layers=5,
            logit_scale_used=20)  # fmt: skip
TOKENS = [
    [38, 6, 7, 8, 6, 10, 4, 39, 0, 0, 0],
    [38, 6, 7, 8, 6, 11, 12, 13, 4, 39, 0],
    [38, 6, 7, 8, 6, 20, 39, 0, 0, 0, 0],
]
INPUTS = {"image": [2, 3, 12, 12], "tokens": TOKENS, "label": [2, 0], "train_image_0": [2, 3, 12, 12],
          "train_labels": [[0, 1]]}  # fmt: skip
TRAINING = dict(variant="none", max_epoch=1, lr=0.01, momentum=0.9, weight_decay=5e-4, warmup_epochs=0,
                warmup_cons_lr=1e-5, gpa_mean=1, gpa_std=1)  # fmt: skip
TOWERS = {"vision": ("visual.transformer", 56), "text": ("transformer", 40)}


def about(system, **more):
    arch = ARCH | more.pop("arch", {})
    return dict(system=system, seed=31, arch=arch, state=clip.clip_shapes(arch, 122), inputs=INPUTS, training=TRAINING,
                state_offset={"logit_scale": 1.3}, tolerance="abs 5e-5 + 5e-5*|value|", **more)  # fmt: skip


def test_clip_lora():
    variants = {}
    for n, (encoder, params) in enumerate(itertools.product(("both", "vision", "text"), ("qkvo", "o", "ko"))):
        blocks, rank, trained = [[1, 3], [0, 1, 2, 3], [2]][n % 3], 1 + n % 4, {}
        names = [{"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}[p] for p in params]
        for tower in TOWERS if encoder == "both" else [encoder]:
            at, width = TOWERS[tower]
            for i, name in itertools.product(blocks, names):
                key = f"{at}.resblocks.{i}.attn.{name}.w_lora"
                trained |= {f"{key}_A": [rank, width], f"{key}_B": [width, rank]}
        options = dict(encoder=encoder, params=list(params), r=rank, alpha=1.5, dropout_rate=0.25, blocks=blocks)
        variants[f"v{n}"] = {**options, "trainable": trained}
    r.judge(about("clip_lora", variants=variants), clip.clip_lora)


def test_maple():
    variants = {}
    for n, depth in ((1, 4), (3, 2), (4, 1), (2, 3)):
        p = "prompt_learner."
        trained = {f"{p}ctx": [n, 40], **r.affine(f"{p}proj", 56, 40)}
        for i in range(depth - 1):
            trained |= {f"{p}compound_prompts_text.{i}": [n, 40]}
            trained |= r.affine(f"{p}compound_prompt_projections.{i}", 56, 40)
        variants[f"n{n}_depth{depth}"] = dict(n_ctx=n, depth=depth, trainable=trained)
    r.judge(about("maple", variants=variants), clip.maple)


def test_promptsrc():
    for n_text, n_vision, text, vision in ((2, 5, 4, 2), (4, 1, 1, 4)):
        trained = {"prompt_learner.ctx": [n_text, 40], "image_encoder.VPT": [n_vision, 56]}
        deep = "_encoder.transformer.resblocks.{}.VPT_shallow"
        trained |= {"text" + deep.format(i): [n_text, 40] for i in range(1, text)}
        trained |= {"image" + deep.format(i): [n_vision, 56] for i in range(1, vision)}
        arch = dict(n_ctx_text=n_text, n_ctx_vision=n_vision, depth_text=text, depth_vision=vision,
                    text_loss_weight=7.0, image_loss_weight=3.0)  # fmt: skip
        case = about("promptsrc", arch=arch, trainable=trained)
        templates = [[[t, *row[1:]] for row in TOKENS] for t in (38, 37, 5)]
        r.judge({**case, "inputs": {**INPUTS, "template_tokens": templates}}, clip.promptsrc)
