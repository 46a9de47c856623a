import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from xmodal.toys import shapes
from xmodal.toys.shape_pool import CONTEXT, TOKENIZER, Pool
from xmodal.toys.shapes import COLORS, SHAPES, Thing, background, mask, picture, place_of, random_scene, render


def plain(value=0.0, size=48):
    return np.full((size, size, 3), value, np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn_where_it_says(shape):
    thing = Thing(shape, "white", 0.25, 0.7, 0.3)
    image = render((thing,), plain())[..., 0].astype(float)
    y, x = np.mgrid[0:48, 0:48] + 0.5
    assert abs((image * x).sum() / image.sum() - 0.25 * 48) < 1.2
    assert abs((image * y).sum() / image.sum() - 0.7 * 48) < 1.2
    lit = np.argwhere(image > 60)
    assert 0.19 * 48 < max(np.ptp(lit[:, 0]), np.ptp(lit[:, 1])) + 1 <= 0.3 * 48 + 2


def test_shapes_differ():
    masks = [mask(shape, 64) for shape in SHAPES]
    for i, a in enumerate(masks):
        for b in masks[i + 1 :]:
            overlap = np.minimum(a, b).sum() / np.maximum(a, b).sum()
            assert overlap < 0.9


def test_resolution_does_not_move_things():
    thing = Thing("star", "white", 0.3, 0.6, 0.5, angle=0.4)
    small, large = (render((thing,), plain(size=s))[..., 0].astype(float) for s in (32, 128))
    pooled = large.reshape(32, 4, 32, 4).mean((1, 3))
    assert np.abs(small - pooled).mean() < 4


def test_positive_angle_is_clockwise():
    upright = Thing("triangle", "white", 0.5, 0.5, 0.8)
    tip = {}
    for angle in (-0.4, 0.4):
        image = render((upright.moved(angle=angle),), plain())[..., 0]
        tip[angle] = np.argwhere(image > 120)[0][1]  # column of the topmost lit pixel
    assert tip[-0.4] < 22 < 26 < tip[0.4]


def test_alpha_and_order():
    a, b = Thing("circle", "red", 0.5, 0.5, 0.6), Thing("circle", "blue", 0.5, 0.5, 0.6)
    assert render((a, b), plain())[24, 24].tolist() == list(COLORS["blue"])
    half = render((a.moved(alpha=0.5),), plain())[24, 24]
    assert abs(int(half[0]) - COLORS["red"][0] / 2) <= 1
    assert not render((a.moved(alpha=0),), plain()).any()


def test_unknown_shape_is_named():
    with pytest.raises(ValueError, match="hexagon"):
        shapes.outline("hexagon")


def test_background_is_dim_and_differs():
    grounds = [background(np.random.default_rng(i), 48) for i in range(30)]
    assert all(g.shape == (48, 48, 3) and g.min() >= 0 and g.max() <= 200 for g in grounds)
    assert len({g.tobytes() for g in grounds}) == 30
    assert np.mean([g.std(axis=(0, 1)).mean() for g in grounds]) < 30


def test_picture_depends_on_the_seed_alone():
    first, again = (picture(np.random.default_rng([3, 1])) for _ in range(2))
    other = picture(np.random.default_rng([3, 2]))
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert not np.array_equal(first[0], other[0])


def test_captions_tell_the_truth():
    relations = set()
    for i in range(400):
        scene = random_scene(np.random.default_rng(i))
        words = scene.caption.split()
        assert all(t.shape in words for t in scene.things)
        if len(scene.things) == 1:
            assert not {"on", "in"} & set(words) or scene.caption.endswith(place_of(scene.things[0]))
            continue
        a, b = scene.things
        assert np.hypot(a.x - b.x, a.y - b.y) > 0.5 * (a.size + b.size)
        tests = {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}
        (said,) = [w for w in tests if w in words]
        relations.add(said)
        assert tests[said]
    assert relations == {"left", "right", "above", "below"}


def test_every_caption_is_inside_the_vocabulary():
    captions = [random_scene(np.random.default_rng(i)).caption for i in range(500)]
    assert TOKENIZER.unknown(captions) == []
    assert TOKENIZER(captions).shape == (500, CONTEXT)
    assert TOKENIZER.unknown("moving left then growing") == ["then"]


def test_pool_agrees_with_the_pictures():
    pool = Pool.draw(20, seed=7)
    image, scene = picture(np.random.default_rng([7, 4]))
    assert np.array_equal(pool.images[4].transpose(1, 2, 0), image)
    assert pool.texts[4] == scene.caption
    assert SHAPES[pool.shape[4, 0]] == scene.things[0].shape
    assert list(COLORS)[pool.color[4, 0]] == scene.things[0].color
    assert set((pool.shape >= 0).sum(1)) == {1, 2}


@pytest.fixture(scope="module")
def shipped():
    from safetensors.torch import load_file

    from xmodal.encoders.text import TextTransformer
    from xmodal.encoders.vit import VisionTransformer

    folder = files("xmodal.assets")
    facts = json.loads((folder / "tiny_clip.json").read_text())
    state = {k: v.float() for k, v in load_file(str(folder / "tiny_clip.safetensors")).items()}
    image, text = VisionTransformer(**facts["vision"]).eval(), TextTransformer(**facts["text"]).eval()
    for tower, part in ((image, "visual."), (text, "text.")):
        tower.load_state_dict({k.removeprefix(part): v for k, v in state.items() if k.startswith(part)})
    assert facts["vocab"] == shapes.vocabulary()
    return image, text, facts, folder


def test_shipped_clip_is_small(shipped):
    folder = shipped[3]
    assert sum((folder / f"tiny_clip.{end}").stat().st_size for end in ("safetensors", "json")) < 5e6


@torch.no_grad()
def test_shipped_clip_knows_shapes_and_colors(shipped):
    image, text, facts, _ = shipped
    pool = Pool.draw(300, seed=31337)
    mean, std = (torch.tensor(facts["vision"][k]).view(1, 3, 1, 1) for k in ("pixel_mean", "pixel_std"))
    features = image((torch.from_numpy(pool.images).float() / 255 - mean) / std)
    prompts = text(TOKENIZER([f"a {c} {s}" for c in COLORS for s in SHAPES]))
    guess = (features @ torch.nn.functional.normalize(prompts, dim=-1).t()).argmax(1).numpy()
    alone = pool.shape[:, 1] < 0
    right = (guess // 8 == pool.color[:, 0]) & (guess % 8 == pool.shape[:, 0])
    assert alone.sum() > 80
    stated = facts["zero_shot_percent"]["joint"] / 100
    assert right[alone].mean() > stated - 0.1
