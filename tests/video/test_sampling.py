"""Frame sampling, against rules written out by hand."""

import numpy as np
import pytest

from video.sampling import (
    DenseSampling,
    UniformSampling,
    dense_start_range,
    dense_test,
    dense_train,
    uniform_ranges,
    uniform_test,
    uniform_train,
)
from xmodal.registry import TRANSFORMS, build

RNG = np.random.default_rng


def test_uniform_ranges_round_half_to_even():
    assert uniform_ranges(8, 113).tolist() == [[14 * i, 14 * (i + 1)] for i in range(8)]
    assert uniform_ranges(2, 6).tolist() == [[0, 2], [2, 5]]  # 2.5 becomes 2
    assert uniform_ranges(2, 8).tolist() == [[0, 4], [4, 7]]  # 3.5 becomes 4
    assert uniform_ranges(4, 1).tolist() == [[0, 0]] * 4


def test_uniform_train_draws_both_ends_and_nothing_else():
    ranges = uniform_ranges(4, 20)
    draws = np.stack([uniform_train(4, 20, RNG(seed)) for seed in range(400)])
    assert (draws.min(0) == ranges[:, 0]).all()
    assert (draws.max(0) == ranges[:, 1]).all()
    np.testing.assert_array_equal(uniform_train(4, 20, RNG(3)), uniform_train(4, 20, RNG(3)))


def test_uniform_test_views():
    assert uniform_test(8, 300).tolist() == [[18, 56, 93, 131, 168, 205, 243, 280]]
    views = uniform_test(4, 41, 4)  # segments [0, 10], [10, 20], ...
    assert views[:, 0].tolist() == [2, 4, 6, 8]
    assert views[:, 3].tolist() == [32, 34, 36, 38]


def test_dense_train():
    assert dense_start_range(8, 16, 114) == (0, 1)
    assert dense_start_range(8, 16, 113) == (0, 0)
    starts = {int(dense_train(8, 16, 116, RNG(seed))[0]) for seed in range(100)}
    assert starts == {0, 1, 2, 3}
    assert np.diff(dense_train(8, 16, 300, RNG(0))).tolist() == [16] * 7


def test_short_films_pad_differently_in_training_and_testing():
    assert dense_train(8, 16, 30, RNG(0)).tolist() == [0] + [16] * 7
    assert dense_test(8, 16, 30).tolist() == [[0, 16] + [29] * 6]


def test_dense_test_views():
    assert dense_test(8, 16, 300)[0, 0] == 93
    assert dense_test(8, 16, 300, 3)[:, 0].tolist() == [0, 94, 187]
    assert dense_test(8, 16, 250, 3)[:, 0].tolist() == [0, 68, 137]  # 68.5 becomes 68


@pytest.mark.parametrize("length", [1, 2, 7, 33, 500])
@pytest.mark.parametrize("sampling", [UniformSampling(6), DenseSampling(6, 5), DenseSampling(1, 16)])
def test_never_outside_the_video(sampling, length):
    for views in (1, 2, 5):
        test = sampling.test(length, views)
        assert test.shape == (views, sampling.num_frames)
        assert test.min() >= 0
        assert test.max() < length
        assert (np.diff(test) >= 0).all()
    draws = np.stack([sampling.train(length, RNG(seed)) for seed in range(50)])
    assert draws.min() >= 0
    assert draws.max() < length


def test_built_from_configs_and_refused():
    assert (DenseSampling().num_frames, DenseSampling().stride, UniformSampling().num_frames) == (8, 16, 8)
    assert build({"type": "dense", "stride": 4}, TRANSFORMS, num_frames=3) == DenseSampling(3, 4)
    with pytest.raises(ValueError, match="stride"):
        build({"type": "dense", "strid": 4}, TRANSFORMS)
    for wrong in (lambda: DenseSampling(0), lambda: DenseSampling(8, 0), lambda: uniform_test(8, 10, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            wrong()
    with pytest.raises(ValueError, match="length"):
        uniform_ranges(8, 0)
