"""Every network of larq-zoo can be exported, and its twin without batch norm."""

import larq_zoo
import pytest
from deploying import images_for

from larq_nobn import deploy
from larq_nobn.batch_norm import remove_batch_norm
from larq_nobn.deploy.survey import randomize

literature, sota = larq_zoo.literature, larq_zoo.sota
# The size of its images, and how many layers convolve signs with signs.
NETWORKS = {
    literature.BinaryAlexNet: (128, 7),
    literature.BiRealNet: (64, 16),
    literature.BinaryResNetE18: (64, 16),
    literature.BinaryDenseNet28: (32, 23),
    literature.BinaryDenseNet37: (32, 32),
    literature.BinaryDenseNet37Dilated: (32, 32),
    literature.BinaryDenseNet45: (32, 40),
    literature.MeliusNet22: (32, 34),
    literature.RealToBinaryNet: (64, 16),
    literature.XNORNet: (224, 6),
    literature.DoReFaNet: (128, 0),
    sota.QuickNet: (64, 16),
    sota.QuickNetSmall: (64, 16),
    sota.QuickNetLarge: (64, 32),
}
# One with each kind of layer: others take minutes and show nothing else.
CONVERTED = {
    literature.BinaryResNetE18,
    literature.MeliusNet22,
    literature.RealToBinaryNet,
    sota.QuickNetSmall,
}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "free"])
@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_every_network(make, norm):
    size, count = NETWORKS[make]
    model = make(weights=None, num_classes=10, input_shape=(size, size, 3))
    randomize(model)
    if norm == "free":
        model = remove_batch_norm(model)
    two_bits = make is literature.DoReFaNet
    failures = deploy.can_convert(model)
    assert len(failures) == (6 if two_bits else 0), failures
    assert all("DoReFa is not a sign" in reason for _, reason in failures)
    folded = deploy.FoldedModel(model, allow_float=True)
    assert folded.failures() == []
    assert len(folded.binary_layers) == count
    assert len(folded.float_layers) == (6 if two_bits else 0)
    if make in CONVERTED:
        content = deploy.convert(model)
        assert deploy.report(content).binary_convolutions == count
        result = deploy.check(model, content, images_for(model, 4))
        assert result.unexplained == 0, str(result)
