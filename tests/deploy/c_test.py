"""Export to C: it is what the file is, on any machine, and says what it cannot do."""

import importlib.util
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from deploying import images_for, network, relative
from flatbuffers import flexbuffers

from larq_nobn import UserError, deploy, zoo
from larq_nobn._tables import markdown_table
from larq_nobn._tensorflow import schema
from larq_nobn.cli import main
from larq_nobn.deploy.c.arena import plan
from larq_nobn.deploy.c.compiler import WARNINGS, Program, host_compiler
from larq_nobn.deploy.c.export import write_c
from larq_nobn.deploy.c.graph import OPERATORS, read_graph
from larq_nobn.deploy.c.source import Writer, generated, kernel_sections
from larq_nobn.deploy.flatbuffer import Flatbuffer
from larq_nobn.deploy.runtime import Runner

pytestmark = pytest.mark.lce

ROOT = Path(__file__).parents[2]
ARGUMENTS = {"stem": "cifar", "width": 16, "input_shape": (32, 32, 3)}


def _emulator():
    path = ROOT / "benchmarks/cortex_m.py"
    spec = importlib.util.spec_from_file_location("cortex_m", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class File:
    """Writes TFLite files operator by operator."""

    def __init__(self, shape):
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs = [self.tensor(shape)]
        self.last = self.graph.inputs[0]

    def tensor(self, shape, dtype="float32", data=None):
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.graph.tensors)}".encode()
        tensor.shape = list(shape)
        tensor.type = getattr(schema.TensorType, dtype.upper())
        tensor.buffer = 0
        if data is not None:
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT())
            self.model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, values):
        values = np.asarray(values)
        return self.tensor(values.shape, values.dtype.name, values)

    def add(self, kind, inputs, shape, dtype="float32", options=None, **custom):
        """Append an operator; `...` among the inputs is the last one's output."""
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.version = 1
        if kind.startswith("Lce"):
            code.customCode = kind.encode()
            code.builtinCode = code.deprecatedBuiltinCode = 32
            builder = flexbuffers.Builder()
            builder.MapFromElements(custom)
            op.customOptions = np.frombuffer(bytes(builder.Finish()), np.uint8)
        else:
            number = getattr(schema.BuiltinOperator, kind)
            code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
            if options is not None:
                op.builtinOptionsType = getattr(
                    schema.BuiltinOptions, type(options).__name__[:-1]
                )
                op.builtinOptions = options
        op.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        op.inputs = [self.last if i is ... else i for i in inputs]
        self.last = self.tensor(shape, dtype)
        op.outputs = [self.last]
        self.graph.operators.append(op)
        return self.last

    def content(self):
        self.graph.outputs = [self.last]
        file = object.__new__(Flatbuffer)
        file.model, file.graph = self.model, self.graph
        return file.pack()


def options(kind, **values):
    result = getattr(schema, f"{kind}OptionsT")()
    for name, value in values.items():
        assert hasattr(result, name)
        setattr(result, name, value)
    return result


def words(bits):
    """Bits of the last axis in words of 32."""
    bits = np.pad(bits, [(0, 0)] * 3 + [(0, -bits.shape[-1] % 32)])
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<i4").astype(np.int32)


def length(size, kernel, stride, gap, is_same):
    reach = (kernel - 1) * gap + 1
    return -(-size // stride) if is_same else (size - reach) // stride + 1


def summed(x, kernel, stride, gap, padding):
    """A binary convolution as anybody would write it: signs, loops, whole numbers."""
    signs = np.where(x < 0, -1, 1)
    kernel = np.where(kernel, -1, 1)
    size, shape = np.array(x.shape[:2]), np.array(kernel.shape[1:3])
    out = [
        length(*a, padding != "valid")
        for a in zip(size, shape, stride, gap, strict=True)
    ]
    need = (np.array(out) - 1) * stride + (shape - 1) * gap + 1
    around = np.maximum(need - size, 0) if padding != "valid" else 0 * need
    pads = [(n // 2, n - n // 2) for n in around]
    filling = {"one": 1}.get(padding, 0)
    signs = np.pad(signs, [*pads, (0, 0)], constant_values=filling)
    result = np.empty((*out, len(kernel)), np.int64)
    for y, x_ in itertools.product(*map(range, out)):
        top, left = y * stride[0], x_ * stride[1]
        rows = top + np.arange(shape[0]) * gap[0]
        columns = left + np.arange(shape[1]) * gap[1]
        patch = signs[rows][:, columns]
        result[y, x_] = np.einsum("hwc,fhwc->f", patch, kernel)
    return result


CASES = [
    # height, width, channels, filters, kernel, stride, gap, padding, activation, bits
    (5, 9, 16, 16, (3, 3), (1, 1), (1, 1), "zero", 0, False),
    (6, 7, 3, 5, (3, 3), (2, 2), (1, 1), "zero", 0, False),
    (4, 4, 40, 9, (3, 3), (1, 1), (1, 1), "one", 1, False),
    (8, 8, 64, 8, (1, 1), (1, 1), (1, 1), "valid", 3, False),
    (8, 6, 33, 7, (1, 1), (2, 2), (1, 1), "valid", 2, False),
    (9, 11, 12, 17, (5, 3), (1, 2), (1, 1), "valid", 0, False),
    (9, 9, 8, 8, (3, 3), (1, 1), (2, 2), "one", 0, False),
    (10, 7, 20, 4, (2, 4), (3, 1), (1, 1), "zero", 0, False),
    (3, 3, 300, 10, (3, 3), (1, 1), (1, 1), "zero", 0, False),
    (2, 2, 70, 3, (3, 3), (1, 1), (1, 1), "zero", 0, False),
    (1, 1, 96, 33, (1, 1), (1, 1), (1, 1), "valid", 0, False),
    (7, 5, 24, 40, (3, 3), (1, 1), (1, 1), "one", 0, True),
    (6, 6, 1, 3, (3, 3), (2, 1), (1, 1), "valid", 0, True),
    (9, 5, 130, 12, (7, 1), (1, 1), (1, 1), "zero", 0, False),
]


def binary_file(case, rng):
    """A file with one binary convolution; and a function of the same."""
    height, width, channels, filters, kernel, stride, gap, padding, code, bits = case
    is_same = padding != "valid"
    signs = rng.integers(0, 2, (filters, *kernel, channels), np.uint8)
    out = [
        length(*a, is_same)
        for a in zip((height, width), kernel, stride, gap, strict=True)
    ]
    multiplier, bias = rng.normal(size=(2, filters)).astype(np.float32)
    middle = channels * kernel[0] * kernel[1] // 2
    thresholds = rng.integers(middle - 3, middle + 3, filters, np.int32)
    file = File((1, height, width, channels))
    file.add("LceQuantize", [...], (1, height, width, -(-channels // 32)), "int32")
    result = (1, *out, -(-filters // 32) if bits else filters)
    inputs = [..., file.constant(words(signs))]
    inputs += [-1, -1, file.constant(thresholds)] if bits else []
    inputs += [] if bits else [file.constant(multiplier), file.constant(bias), -1]
    file.add(
        "LceBconv2d",
        inputs,
        result,
        "int32" if bits else "float32",
        channels_in=channels,
        dilation_height_factor=gap[0],
        dilation_width_factor=gap[1],
        fused_activation_function=code,
        pad_values=int(padding == "one"),
        padding=int(not is_same),
        stride_height=stride[0],
        stride_width=stride[1],
    )
    if bits:
        file.add("LceDequantize", [...], (1, *out, filters))

    def function(x):
        y = summed(x, signs, stride, gap, padding)
        if bits:
            counts = (channels * kernel[0] * kernel[1] - y) // 2
            return np.where(counts > thresholds, -1.0, 1.0)
        low, high = {0: (-1e9, 1e9), 1: (0, 1e9), 2: (-1, 1), 3: (0, 6)}[code]
        return np.clip(y, low, high) * multiplier + bias

    return file.content(), function


def compiled(content, folder, *flags, **kwargs):
    """The C of a file, compiled without a warning."""
    graph = read_graph(content)
    writer = Writer("net", graph, plan(graph, False), None, "a test", [])
    (folder / "net.c").write_text(writer.source())
    (folder / "net.h").write_text(writer.header())
    return Program(folder, "net", (*WARNINGS, *flags), **kwargs)


@pytest.fixture(scope="module")
def sanitizers():
    """Undefined behaviour stops; so do accesses beyond, where the compiler can."""
    return ("-fsanitize=undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_binary_convolutions(case, tmp_path, sanitizers):
    rng = np.random.default_rng(CASES.index(case))
    content, function = binary_file(case, rng)
    program = compiled(content, tmp_path, *sanitizers)
    x = rng.standard_normal((2, *case[:3])).astype(np.float32)
    x[0, 0] = 0.0  # a zero counts as positive
    ours = program.run(x)
    for image, result in zip(x, ours, strict=True):
        expected = function(image)
        np.testing.assert_allclose(
            result.reshape(expected.shape), expected, rtol=1e-5, atol=1e-4
        )
    # Larq Compute Engine is wrong where zero padding exceeds the map (2×2 under 3×3).
    is_small = case[7] == "zero" and min(case[:2]) < max(case[4])
    if not is_small:
        theirs = Runner(content).predict(x)
        assert relative(ours, theirs.reshape(2, -1)) < 1e-5


RNG = np.random.default_rng(0)


def _floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def _window(kind, **values):
    return options(kind, padding=0, strideH=2, strideW=2, **values)


def _add(file, kind, constant, shape=(1, 6, 5, 4), code=1):
    names = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
    what = options(names[kind], fusedActivationFunction=code) if kind in names else None
    if what is None and kind != "PRELU":
        what = options("MaximumMinimum")
    file.add(kind, [..., file.constant(constant)], shape, options=what)


def _conv(file):
    what = _window(
        "Conv2D", fusedActivationFunction=1, dilationHFactor=1, dilationWFactor=1
    )
    inputs = [..., file.constant(_floats(7, 3, 3, 4)), file.constant(_floats(7))]
    file.add("CONV_2D", inputs, (1, 3, 3, 7), options=what)


def _depthwise(file):
    what = _window(
        "DepthwiseConv2D", depthMultiplier=2, dilationHFactor=1, dilationWFactor=1
    )
    inputs = [..., file.constant(_floats(1, 3, 3, 8)), file.constant(_floats(8))]
    file.add("DEPTHWISE_CONV_2D", inputs, (1, 3, 3, 8), options=what)


def _dilated(file):
    what = options("Conv2D", padding=0, strideH=1, strideW=1)
    what.dilationHFactor, what.dilationWFactor = 2, 3
    inputs = [..., file.constant(_floats(2, 3, 3, 4)), file.constant(_floats(2))]
    file.add("CONV_2D", inputs, (1, 6, 5, 2), options=what)


def _pool(kind):
    return lambda file: file.add(
        kind,
        [...],
        (1, 3, 3, 4),
        options=_window("Pool2D", filterHeight=3, filterWidth=2),
    )


def _dense(file):
    file.add("MEAN", [..., file.constant(np.int32([1, 2]))], (1, 4),
             options=options("Reducer", keepDims=False))  # fmt: skip
    inputs = [..., file.constant(_floats(9, 4)), file.constant(_floats(9))]
    what = options("FullyConnected", fusedActivationFunction=0)
    file.add("FULLY_CONNECTED", inputs, (1, 9), options=what)
    file.add("SOFTMAX", [...], (1, 9), options=options("Softmax", beta=1.0))


def _concatenation(file):
    first = file.last
    other = file.add("LOGISTIC", [first], (1, 6, 5, 4))
    what = options("Concatenation", axis=3, fusedActivationFunction=0)
    file.add("CONCATENATION", [first, other, first], (1, 6, 5, 12), options=what)


def _shared(file):
    """A map that is read again after what could have overwritten it."""
    first = file.last
    file.add("RELU", [...], (1, 6, 5, 4))
    file.add("ADD", [..., first], (1, 6, 5, 4), options=options("Add"))
    file.add("MUL", [..., first], (1, 6, 5, 4), options=options("Mul"))


def _pad(file):
    around = np.int32([[0, 0], [1, 2], [0, 1], [0, 0]])
    file.add("PAD", [..., file.constant(around)], (1, 9, 6, 4), options=options("Pad"))


def _reverse(file):
    axis = file.constant(np.int32([2]))
    what = options("ReverseV2")
    file.add("REVERSE_V2", [..., axis], (1, 6, 5, 4), options=what)


def _unary(kind, what=None):
    return lambda file: file.add(kind, [...], (1, 6, 5, 4), options=what)


FLOATS = {
    "add": lambda f: _add(f, "ADD", _floats(4)),
    "add a scalar": lambda f: _add(f, "ADD", _floats(1), code=3),
    "subtract a map": lambda f: _add(f, "SUB", _floats(1, 6, 5, 4)),
    "multiply": lambda f: _add(f, "MUL", _floats(1, 1, 1, 4), code=0),
    "divide": lambda f: _add(f, "DIV", _floats(4)),
    "maximum": lambda f: _add(f, "MAXIMUM", _floats(4)),
    "minimum": lambda f: _add(f, "MINIMUM", _floats(4)),
    "prelu": lambda f: _add(f, "PRELU", _floats(1, 1, 4)),
    "conv": _conv,
    "dilated conv": _dilated,
    "depthwise": _depthwise,
    "average": _pool("AVERAGE_POOL_2D"),
    "largest": _pool("MAX_POOL_2D"),
    "dense": _dense,
    "concatenation": _concatenation,
    "shared": _shared,
    "pad": _pad,
    "reverse": _reverse,
    "leaky": _unary("LEAKY_RELU", options("LeakyRelu", alpha=0.3)),
    "relu 6": _unary("RELU6"),
    "relu 1": _unary("RELU_N1_TO_1"),
    "absolute": _unary("ABS", options("Abs")),
    "negative": _unary("NEG", options("Neg")),
    "logistic": _unary("LOGISTIC"),
    "hard swish": _unary("HARD_SWISH", options("HardSwish")),
}


@pytest.mark.parametrize("name", FLOATS)
def test_float_operators(name, tmp_path, sanitizers):
    file = File((1, 6, 5, 4))
    FLOATS[name](file)
    content = file.content()
    x = 2 * RNG.standard_normal((2, 6, 5, 4)).astype(np.float32)
    ours = compiled(content, tmp_path, *sanitizers).run(x)
    theirs = Runner(content).predict(x).reshape(2, -1)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.fixture(scope="module")
def small():
    model = network(input_shape=(16, 16, 3), classifier_activation="softmax")
    return model, deploy.convert(model)


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("c") / "made"
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    return folder, write_c(small[1], folder, name="net", **statistics)


def test_a_network(small, written):
    model, content = small
    folder, report = written
    assert sorted(path.name for path in folder.iterdir()) == [
        "net.c", "net.h", "net_test.c",
    ]  # fmt: skip
    assert report.checked < 1e-5
    assert report.total("binary_macs") == deploy.report(content).total("binary_macs")
    assert str(report.arena_bytes) in (folder / "net.h").read_text()
    images = images_for(model, 16)
    result = deploy.check_c(content, folder, "net", images)
    assert result.passed
    assert len(result.flips) == 16
    logits = Program(folder, "net").run(images)
    np.testing.assert_allclose(logits, model(images), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("standard", ["c99", "c11"])
def test_its_own_test_without_a_warning(written, tmp_path, standard):
    folder, _ = written
    command = [*host_compiler(), f"-std={standard}", "-O1", "-g0", *WARNINGS]
    files = [str(folder / "net.c"), str(folder / "net_test.c")]
    test = tmp_path / "test.exe"
    subprocess.run([*command, *files, "-o", str(test)], check=True)
    done = subprocess.run([test], capture_output=True, text=True, check=True)
    assert "net_run: deviates by" in done.stdout
    assert "net_run_u8: deviates by" in done.stdout
    # It notices an output that is another one's.
    text = (folder / "net_test.c").read_text()
    changed = tmp_path / "net_test.c"
    start = "expected[NET_OUTPUT_SIZE] = {\n  "
    changed.write_text(text.replace(start, f"{start}1", 1))
    command += [f"-I{folder}", files[0], str(changed), "-o", str(test)]
    subprocess.run(command, check=True)
    assert subprocess.run([test], capture_output=True, check=False).returncode == 1


@pytest.mark.skipif(not shutil.which("gcc"), reason="address sanitizer needs gcc")
def test_stays_in_its_memory(written, monkeypatch):
    monkeypatch.setenv("CC", "gcc")
    folder, _ = written
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", *WARNINGS)
    images = generated(3, (16, 16, 3))[0]
    ours = Program(folder, "net", flags).run(images)
    monkeypatch.delenv("CC")
    # Two compilers, the same bits.
    np.testing.assert_array_equal(ours, Program(folder, "net").run(images))


def test_emulated_cortex_m4_is_equal_bit_for_bit(written):
    folder, report = written
    floats, pixels = generated(5, (16, 16, 3))
    host = Program(folder, "net").run(floats)[0]
    host_u8 = Program(folder, "net", u8=True).run(pixels)[0]
    board = _emulator().Board(folder / "net.c")
    run = board.run(floats, len(host), report.arena_bytes)
    assert run.status == 0
    np.testing.assert_array_equal(run.output, host)
    assert sum(count for _, count in run.layers) > 0.99 * run.instructions
    again = board.run(pixels, len(host), report.arena_bytes, u8=True)
    np.testing.assert_array_equal(again.output, host_u8)
    assert not np.array_equal(host, host_u8)


def test_wrong_arenas_are_refused(written, tmp_path):
    folder, _ = written
    (tmp_path / "main.c").write_text(
        """
        #include "net.h"
        static union { unsigned char b[NET_ARENA_BYTES + 8]; double d; } m;
        int main(void) {
          static float in[NET_INPUT_SIZE], out[NET_OUTPUT_SIZE];
          static uint8_t pixels[NET_INPUT_SIZE];
          return net_run(in, out, 0) == 1 && net_run(in, out, m.b + 4) == 1 &&
                 net_run_u8(pixels, out, m.b + 1) == 1 && net_run(0, out, m.b) == 1 &&
                 net_run(in, out, m.b) == 0 ? 0 : 1;
        }"""
    )
    test = tmp_path / "test.exe"
    command = [
        *host_compiler(),
        "-std=c99",
        "-g0",
        f"-I{folder}",
        str(folder / "net.c"),
    ]
    subprocess.run([*command, str(tmp_path / "main.c"), "-o", str(test)], check=True)
    subprocess.run([test], check=True)


def test_width_16_fits_a_small_board(tmp_path):
    """Flash at most 1.25 times the packed weights, RAM 1.5 times the largest map."""
    model = zoo.load("reactnet18_free_cifar10_width16")
    report = deploy.to_c(model, tmp_path / "c", name="net")
    assert report.constant_bytes + report.code_bytes <= 1.25 * 142_012
    assert report.arena_bytes <= 96 * 1024
    header = (tmp_path / "c/net.h").read_text()
    assert "Apache-2.0" in header
    assert "top1 76.50 %" in header
    board = _emulator().Board(tmp_path / "c/net.c")
    run = board.run(generated(1, (32, 32, 3))[0], 10, report.arena_bytes)
    pairs = zip(run.layers, report.layers, strict=True)
    each = [n / layer.binary_macs for (_, n), layer in pairs if layer.binary_macs]
    assert len(each) == 16
    assert np.mean(each) <= 0.38
    assert board.flash_bytes <= 1.25 * 142_012


# --------------------------------------------------------------------- command line


def test_command(small, tmp_path, capsys):
    file, out = tmp_path / "m.tflite", tmp_path / "c"
    file.write_bytes(small[1])
    command = f"export {file} --target c --out {out} --name tiny --check 4"
    assert main(f"{command} --mean 0.5 0.5 0.5 --std 0.2 0.2 0.2".split()) == 0
    text = capsys.readouterr().out
    assert "random images: 4 images: logits deviate by " in text
    assert "bytes of arena" in text
    assert "int tiny_run_u8(" in (out / "tiny.h").read_text()
    before = (out / "tiny.c").read_bytes()
    assert main(command.split()) == 2
    assert "The folder must be empty" in capsys.readouterr().err
    assert (out / "tiny.c").read_bytes() == before
    assert main([*command.split(), "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arena_bytes"] > 0
    assert found["binary_macs"] == sum(x["binary_macs"] for x in found["layers"])
    assert "tiny_run_u8" not in (out / "tiny.h").read_text()


def _changed(content, change):
    file = Flatbuffer(content)
    change(file)
    return file.pack()


def _dynamic(file):
    file.graph.tensors[file.graph.inputs[0]].shapeSignature = [-1, 16, 16, 3]


def _subgraphs(file):
    file.model.subgraphs.append(file.graph)


def _int8(file):
    file.graph.tensors[file.graph.inputs[0]].type = schema.TensorType.INT8


def _unknown(file):
    for code in file.model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.MEAN:
            number = schema.BuiltinOperator.SUM
            code.builtinCode = code.deprecatedBuiltinCode = number


def _nan(file):
    index = next(i for i, t in enumerate(file.graph.tensors) if _is_bias(file, t))
    buffer = file.model.buffers[file.graph.tensors[index].buffer]
    buffer.data = np.full(len(buffer.data) // 4, np.nan, np.float32).view(np.uint8)


def _is_bias(file, tensor):
    data = file.model.buffers[tensor.buffer].data
    return tensor.type == schema.TensorType.FLOAT32 and data is not None and len(data)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_dynamic, "must have fixed shapes. Received: (-1, 16, 16, 3) of"),
        (_subgraphs, "must have one subgraph. Received: 2"),
        (_int8, "must have float32 as its input. Received: int8"),
        (_unknown, "must be one that C export knows .* Received: 1 SUM. Fix:"),
        (_nan, "must be a whole TFLite flatbuffer"),
    ],
)
def test_files_that_cannot_be_c(small, tmp_path, change, error):
    content = _changed(small[1], change)
    out = tmp_path / "c"
    with pytest.raises(
        UserError, match=error.replace("(-1", r"\(-1").replace("3) ", r"3\) ")
    ):
        deploy.to_c(content, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--name 2net", "must be a C identifier"),
        ("--name while", "must be a C identifier of up to 31 characters, and no keyw"),
        ("--name ../net", "must be a C identifier"),
        ("--mean 0.5", "`mean` and `std` must be given together, 3 numbers each"),
        ("--mean 0 0 0 --std 1 1 0", "`std` must be positive"),
        ("--header x.h", "--header, --accuracy and --float-weights are of .tflite"),
    ],
)
def test_bad_arguments_are_one_line(small, tmp_path, capsys, arguments, error):
    file, out = tmp_path / "m.tflite", tmp_path / "c"
    file.write_bytes(small[1])
    assert main(f"export {file} --target c --out {out} {arguments}".split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert error in lines[0]
    assert "Fix: " in lines[0]
    assert not out.exists()


def test_bad_models(tmp_path):
    for model, error in (
        (b"nothing", "must be a TFLite flatbuffer"),
        (tmp_path / "no.tflite", "which does not exist"),
        (3, "Received: int"),
    ):
        with pytest.raises(UserError, match=error):
            deploy.to_c(model, tmp_path / "c")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be a folder"):
        deploy.to_c(b"nothing", tmp_path / "file")


def test_damaged_files_never_crash(small):
    """Whatever is changed: it is read as something else, or a `UserError`."""
    rng = np.random.default_rng(1)
    contents = [binary_file(CASES[0], rng)[0], small[1]]
    refused = 0
    for i in range(250):
        content = bytearray(contents[i % 5 == 0])
        for place in rng.integers(0, len(content), rng.integers(1, 9)):
            content[place] = rng.integers(256)
        if i % 10 == 9:
            content = content[: rng.integers(len(content))]
        try:
            graph = read_graph(bytes(content))
            Writer("net", graph, plan(graph, False), None, "", []).source()
        except UserError as error:
            refused += "Fix: " in str(error)
    assert 20 < refused < 250


# ------------------------------------------------------------------------ the source


def test_what_is_compiled_is_needed():
    """Every section is of use, and names what it needs."""
    everything = kernel_sections({"bconv", "quantize", "softmax", "conv_int8"})
    assert "malloc" not in everything
    assert kernel_sections({"add"}).count("ELEMENTWISE(") == 2
    assert "exponential" not in kernel_sections({"add"})


def test_the_guide_lists_every_operator():
    """The page's table is the one that the registry gives; copy it from here."""
    rows = [(f"`{kind}`", how) for kind, how in sorted(OPERATORS.items())]
    table = markdown_table(("operator", "in C"), rows)
    assert table in (ROOT / "docs/microcontroller.md").read_text(), table
