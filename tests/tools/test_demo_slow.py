"""The gate of the main job: what the demo claims must come out again, with slack."""

import pytest

from tools.demo import METHODS, cached, run_method
from tools.demo_steps import call


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    call("tools/data/make_actions.py", "demo_out/actions8")
    out = tmp_path_factory.mktemp("demo")
    return {name: run_method(config, out, 0, cached(name, out)) for name, config in METHODS.items()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_order_needs_the_temporal_methods(results):
    top1 = {name: result["test"]["top1"] for name, result in results.items()}
    assert top1["Linear probe"] <= 45
    assert top1["ST-Adapter"] >= 90
    assert top1["EVL"] >= 85
    assert all(result["test"]["evaluated"] == result["test"]["of"] >= 200 for result in results.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_untrained_encoder_does_not_do(tmp_path, results):
    options = ["model.encoder.weights=random", *cached("ST-Adapter", tmp_path)]
    untrained = run_method(METHODS["ST-Adapter"], tmp_path, 0, options)
    assert untrained["test"]["top1"] <= results["ST-Adapter"]["test"]["top1"] - 40
