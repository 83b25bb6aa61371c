"""Every network of larq-zoo can be exported, and its twin without batch norm."""

import pytest
from deploying import images_for

from larq_nobn import deploy
from larq_nobn._larq import import_larq_zoo
from larq_nobn.batch_norm import remove_batch_norm
from larq_nobn.deploy.survey import randomize

pytestmark = [pytest.mark.lce, pytest.mark.larq_zoo]

# Its room, the size of its images, and how many layers convolve signs with signs.
NETWORKS = {
    "BinaryAlexNet": ("literature", 128, 7),
    "BiRealNet": ("literature", 64, 16),
    "BinaryResNetE18": ("literature", 64, 16),
    "BinaryDenseNet28": ("literature", 32, 23),
    "BinaryDenseNet37": ("literature", 32, 32),
    "BinaryDenseNet37Dilated": ("literature", 32, 32),
    "BinaryDenseNet45": ("literature", 32, 40),
    "MeliusNet22": ("literature", 32, 34),
    "RealToBinaryNet": ("literature", 64, 16),
    "XNORNet": ("literature", 224, 6),
    "DoReFaNet": ("literature", 128, 0),
    "QuickNet": ("sota", 64, 16),
    "QuickNetSmall": ("sota", 64, 16),
    "QuickNetLarge": ("sota", 64, 32),
}
# One with each kind of layer: others take minutes and show nothing else.
CONVERTED = {
    "BinaryResNetE18",
    "MeliusNet22",
    "RealToBinaryNet",
    "QuickNetSmall",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, "free") for name in NETWORKS]
    # The others' batch norms are of the same kinds.
    + [(name, "batch") for name in sorted(CONVERTED | {"DoReFaNet", "BinaryAlexNet"})],
)
def test_every_network(name, norm):
    room, size, count = NETWORKS[name]
    make = getattr(getattr(import_larq_zoo(), room), name)
    model = make(weights=None, num_classes=10, input_shape=(size, size, 3))
    randomize(model)
    if norm == "free":
        model = remove_batch_norm(model)
    two_bits = name == "DoReFaNet"
    failures = deploy.can_convert(model)
    assert len(failures) == (6 if two_bits else 0), failures
    assert all("DoReFa is not a sign" in reason for _, reason in failures)
    folded = deploy.FoldedModel(model, allow_float=True)
    assert folded.failures() == []
    assert len(folded.binary_layers) == count
    assert len(folded.float_layers) == (6 if two_bits else 0)
    if name in CONVERTED:
        content = deploy.convert(model)
        assert deploy.report(content).binary_convolutions == count
        result = deploy.check(model, content, images_for(model, 4))
        assert result.unexplained == 0, str(result)
