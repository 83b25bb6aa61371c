"""What the report counts, against formulas and other counters."""

import re
import struct

import numpy as np
import pytest
import tensorflow as tf
from deploying import functional, images_for, network
from larq.models import ModelProfile

from larq_nobn import UserError, deploy, layers
from larq_nobn.deploy import inspection

pytestmark = pytest.mark.lce

SIGN = {"input_quantizer": "ste_sign", "kernel_quantizer": "scaled_sign"}


@pytest.fixture(scope="module")
def exported():
    model = network("reactnet18", stem="imagenet", width=32, input_shape=(64, 64, 3))
    return model, deploy.convert(model)


def test_multiply_accumulates_are_larqs(exported):
    model, content = exported
    report, profile = deploy.report(content), ModelProfile(model)
    assert report.binary_convolutions == 16
    assert report.total("binary_macs") == profile.op_count("mac", 1)
    # Larq counts gains as float MACs, one per output of each convolution.
    gains = sum(
        np.prod(layer.output_shape[1:])
        for layer in model.layers
        if isinstance(layer, layers.ScaledWSConv2D)
    )
    downsample = [row for row in report.rows if row.layer.endswith("_downsample")]
    assert len(downsample) == 3
    assert report.total("float_macs") == pytest.approx(
        profile.op_count("mac", 32) - gains, rel=0.02
    )


def test_one_block_by_hand():
    conv = layers.ScaledWSConv2D(
        64, 3, strides=2, padding="symmetric", **SIGN, name="c"
    )
    model = functional(conv, layers.RPReLU(name="p"), shape=(16, 16, 48))
    rows = {row.operator: row for row in deploy.report(deploy.convert(model)).rows}
    binary = rows["LceBconv2d"]
    assert binary.layer == "c"
    assert binary.shape == (1, 8, 8, 64)
    assert binary.binary_macs == 8 * 8 * 64 * 9 * 48
    assert binary.float_macs == 0
    assert binary.multiplications == rows["PRELU"].multiplications == 8 * 8 * 64
    # 48 channels take two words of 32 bits; multiplier and bias are floats.
    assert binary.nbytes == 64 * 9 * 8 + 2 * 64 * 4
    assert binary.float_nbytes == 64 * 9 * 48 * 4 + 2 * 64 * 4
    assert binary.stored == "1 bit"


def test_float_layers_by_hand():
    from larq_nobn.deploy.compaction import compact

    model = functional(
        layers.ScaledWSConv2D(8, 3, padding="symmetric", name="c"), shape=(8, 8, 4)
    )
    exact = deploy.convert(model, "tflite")
    for stored, size in (("float32", 4), ("float16", 2), ("int8", 1)):
        rows = deploy.report(compact(exact, stored)).rows
        (row,) = [row for row in rows if row.float_macs]
        assert row.float_macs == 8 * 8 * 8 * 9 * 4
        assert row.stored == stored
        kernel = 8 * 9 * 4
        bias = row.nbytes - kernel * size
        assert bias in (0, 8 * 4)
        assert row.float_nbytes == kernel * 4 + bias
        assert all(row.operator != "DEQUANTIZE" for row in rows)


def test_file_against_float(exported):
    model, content = exported
    report = deploy.report(content)
    assert report.nbytes == len(content)
    assert report.total("nbytes") < len(content)
    # The float file holds what the Keras model holds, and shapes and names.
    parameters = 4 * model.count_params()
    assert report.float_nbytes == pytest.approx(parameters, rel=0.05)


def test_folding_saves_multiplications(exported):
    model, content = exported
    report = deploy.report(content)
    before = inspection.multiplications_before(model)
    outputs = sum(row.multiplications for row in report.rows if row.binary_macs)
    pools = sum(
        np.prod(layer.output_shape[1:])
        for layer in model.layers
        if "pool" in layer.name
    ) - np.prod(model.get_layer("stem_pool").output_shape[1:])
    # One multiplier and one slope per output of a binary convolution, and averages.
    assert report.total("multiplications") == 2 * outputs + pools
    assert before > 1.8 * report.total("multiplications")


@pytest.mark.slow
def test_blocks_before_and_after(exported):
    model, content = exported
    before = inspection.blocks_before(model)
    after = deploy.report(content).blocks()
    assert before.keys() == after.keys()
    unit = ["SIGN", "CONV_2D", "MUL", "MUL", "MUL", "PRELU", *["ADD"] * 4]
    assert before["stage1_unit3"] == sorted(unit)
    table = inspection.format_blocks(before, after)
    assert re.search(r"stage1_unit3 +4 ADD, .*3 MUL.* 2 ADD, 1 LceBconv2d", table)


def test_text(exported):
    _, content = exported
    text = str(deploy.report(content))
    assert re.search(r"stage1_unit1_conv +LceBconv2d +16x16x32 +2,359,296", text)
    assert "16 binary convolutions; " in text
    assert re.search(r"file \d\.\d+ MB; all in float32 \d+\.\d+ MB", text)


def test_plot(exported, tmp_path):
    from matplotlib import image

    _, content = exported
    path = tmp_path / "model.png"
    deploy.plot(deploy.report(content), path, "tiny")
    pixels = image.imread(path)[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    # Bars in the colours of 1-bit, int8 and float32 weights.
    for colour in ("0072B2", "009E73", "D55E00"):
        rgb = np.frombuffer(bytes.fromhex(colour), np.uint8) / 255
        assert (np.abs(pixels - rgb).max(-1) < 0.01).sum() > 20
    assert [p.name for p in tmp_path.iterdir()] == ["model.png"]
    with pytest.raises(OSError, match="missing"):
        deploy.plot(deploy.report(content), tmp_path / "missing" / "model.png")


def test_report_of_no_file():
    with pytest.raises(UserError, match="must be a TFLite flatbuffer. Received: 5 byt"):
        deploy.report(b"hello")


# ------------------------------------------------------------------------ C header


def test_header_holds_the_file(exported):
    _, content = exported
    header = deploy.c_header(content, "tiny_model")
    array = header[header.index("= {") :]
    numbers = [int(text, 16) for text in re.findall(r"0x([0-9a-f]{2})", array)]
    assert bytes(numbers) == content
    assert f"#define TINY_MODEL_SIZE {len(content)}u" in header
    assert "TINY_MODEL_ALIGN static const unsigned char tiny_model[" in header
    assert "// Input:  float32 1 x 64 x 64 x 3" in header
    assert "// Output: float32 1 x 5" in header
    assert "LceBconv2d" in header.split("\n")[3]


@pytest.mark.parametrize("name", ["", "2fast", "my-model", "model;"])
def test_header_names(exported, name):
    with pytest.raises(UserError, match=f"C identifier. Received: name='{name}'"):
        deploy.c_header(exported[1], name)


def test_header_names_that_are_given(exported):
    header = deploy.c_header(exported[1], "tiny", guard="APP_MODEL_H")
    assert "#ifndef APP_MODEL_H\n#define APP_MODEL_H\n" in header
    assert header.endswith("#endif  // APP_MODEL_H\n")
    assert "tiny[TINY_SIZE] = {" in header
    # An empty macro must not replace the array's name.
    assert "#ifndef TINY_H\n" in deploy.c_header(exported[1], "TINY")
    with pytest.raises(UserError, match="C identifier. Received: guard='a-b'"):
        deploy.c_header(exported[1], "tiny", guard="a-b")
    with pytest.raises(UserError, match="must differ: a macro would"):
        deploy.c_header(exported[1], "tiny", guard="tiny")


def test_header_says_which_runtime_is_needed(exported):
    header = deploy.c_header(exported[1])
    assert "// Runtime: TFLite with Larq Compute Engine's operators" in header
    model = functional(tf.keras.layers.ReLU())
    images = images_for(model)
    content = deploy.convert(model, "tflite", quantize="int8", representative=images)
    header = deploy.c_header(content)
    assert "// Runtime: TensorFlow Lite Micro, or TFLite, with these" in header
    assert re.search(
        r"// Input:  int8 .* \(n stands for 0\.\d+ \* \(n \+ \d+\)\)", header
    )


@pytest.mark.slow
def test_damaged_files_never_end_in_a_traceback(exported):
    """Whatever bytes are overwritten, the answer is a report or one clear error."""
    _, content = exported
    rng = np.random.default_rng(0)
    outcomes = set()
    for start in rng.integers(8, len(content) - 64, 40):
        damaged = bytearray(content)
        damaged[start : start + 8] = struct.pack("<Q", rng.integers(2**63))
        try:
            deploy.report(bytes(damaged))
            outcomes.add("report")
        except UserError:
            outcomes.add("error")
    tables = bytearray(content)
    tables[:4] = struct.pack("<I", len(content) - 4)
    with pytest.raises(UserError, match="must be a TFLite flatbuffer"):
        deploy.report(bytes(tables))
    assert "report" in outcomes


def test_images_for_is_what_the_report_says(exported):
    model, content = exported
    assert deploy.Runner(content).image_shape == images_for(model).shape[1:]
