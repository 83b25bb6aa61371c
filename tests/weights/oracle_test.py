"""The NumPy oracle itself, against the reference's vectors."""

import golden
import pytest

from larq_nobn.weights.torch.oracle import Variant, forward


@pytest.mark.slow
@pytest.mark.parametrize("case", golden.MODELS)
def test_logits(case, parity):
    arguments = golden.MODELS[case]
    alpha = 0.25 if case.startswith("abnet") else arguments.get("alpha", 0.2)
    variant = Variant(
        binary_weights=arguments.get("binary_weights", True),
        binary_downsample=arguments.get("binary_downsample", True),
        stem_stride=1 if arguments.get("stem") == "cifar" else 2,
        alpha=alpha,
    )
    images = golden.images(case).transpose(0, 3, 1, 2)
    logits = forward(golden.state_dict(case), images, variant)
    expected = golden.load(f"model_{case}")["logits_eval"]
    deviations = {"eval logits": golden.deviation(logits, expected)}
    parity(f"oracle {case}", deviations, golden.TOLERANCE)
