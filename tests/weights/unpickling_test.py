"""The reader of PyTorch's files, on files that PyTorch 2.13 wrote.

`data/torch/README.md` says how they were made.
"""

import os
import pickle
import resource
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch_files

from larq_nobn import UserError
from larq_nobn.weights.torch.reading import read_checkpoint
from larq_nobn.weights.torch.unpickling import ForeignObject, load

DATA = Path(__file__).parents[1] / "data" / "torch"
FILES = sorted(path for path in DATA.glob("*.pt") if path.stem != "pickled_module")


@pytest.fixture(scope="module")
def expected():
    """The tensors as PyTorch itself reads them, in float32."""
    with np.load(DATA / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize("form", ["bare", "parallel", "wrapped"])
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_every_format_reads_as_pytorch_reads_it(form, kind, expected):
    content = read_checkpoint(DATA / f"{form}.{kind}.pt")
    state = content.get("state_dict", content)
    assert len(state) == len(expected) == 10
    for key, value in state.items():
        name = key.removeprefix("module.")
        assert (key != name) == (form == "parallel")
        assert value.shape == expected[name].shape
        np.testing.assert_array_equal(np.asarray(value, np.float32), expected[name])
    dtypes = {key.split(".")[-1]: str(value.dtype) for key, value in state.items()}
    assert dtypes["half"] == "float16"
    assert dtypes["bf16"] == "bfloat16"
    assert dtypes["num_batches_tracked"] == "int64"
    if form == "wrapped":
        assert content["epoch"] == 3
        assert content["list"] == [1, 2.5, None, True]
        assert content["big"] == 2**70
        assert content["optimizer"]["param_groups"] == [{"lr": 0.1, "params": [0, 1]}]


def test_a_modules_state_dict():
    state = load(DATA / "module.zip.pt", 1 << 20)
    assert list(state)[:2] == ["0.weight", "0.bias"]
    assert state["0.weight"].shape == (4, 3, 3, 3)


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_reads_what_pytorch_writes_here(as_zip, tmp_path):
    """Where PyTorch is installed: files of its version, tensors of any layout."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    base = torch.randn((4, 6, 5), generator=generator, dtype=torch.float64)
    tensors = {
        "transposed": base.transpose(0, 2),
        "offset": base[1:, ::2],
        "expanded": base[0, 0].expand(3, 5),
        "scalar": base.sum(),
        "empty": torch.empty((0, 3)),
        **{
            str(dtype): (base * 10).to(dtype)
            for dtype in (torch.float32, torch.float16, torch.bfloat16)
        },
        **{
            str(dtype): (base * 10).abs().to(dtype)
            for dtype in (torch.int64, torch.int32, torch.uint8, torch.bool)
        },
        "parameter": torch.nn.Parameter(base),
    }
    path = tmp_path / "file.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=as_zip)
    read = load(path, 1 << 20)
    own = torch.load(path, weights_only=True)
    assert list(read) == list(own)
    for key, tensor in own.items():
        assert read[key].shape == tuple(tensor.shape), key
        assert str(read[key].dtype) == str(tensor.dtype).removeprefix("torch."), key
        np.testing.assert_array_equal(
            np.asarray(read[key], np.float64), tensor.detach().double().numpy()
        )


def test_arrays_are_views_of_the_file():
    state = load(DATA / "bare.zip.pt", 1 << 20)
    assert not state["conv1.weight"].flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        state["conv1.weight"][0] = 1


def test_a_whole_module_is_refused_by_its_name():
    with pytest.raises(
        UserError, match=r"nothing else is ever.*torch\.nn\.modules\.container\.Seq"
    ):
        read_checkpoint(DATA / "pickled_module.pt")


class _Run:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def _archive(data: bytes, **options) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
    return buffer.getvalue()


_MALICIOUS = {
    "system": pickle.dumps(_Run(os.system, "touch ran"), 2),
    "protocol 4": pickle.dumps(_Run(os.system, "touch ran"), 4),
    "eval": pickle.dumps({"a": _Run(eval, "open('ran', 'w')")}, 2),
    "getattr": pickle.dumps(_Run(getattr, "", "format"), 2),
    "inst": b"(S'touch ran'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch ran'\no.",
    "call of a result": b"ccollections\nOrderedDict\n)R)R.",
    "call of a string": b"U\x06system)R.",
    "extension": b"\x80\x02\x82\x01.",
    "state of a list": b"](K\x01K\x02tb.",
    "dtype by name": pickle.dumps(np.dtype("f4"), 2),
}


@pytest.mark.parametrize("name", _MALICIOUS)
@pytest.mark.parametrize("archive", [True, False])
def test_nothing_is_run(name, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = _MALICIOUS[name]
    if not archive:
        parts = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
        data = b"".join(parts) + pickle.dumps({}, 2) + data
    (tmp_path / "a.pth").write_bytes(_archive(data) if archive else data)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def _tensor(tmp_path, shape, strides, numel=4, offset=0):
    """A file with one tensor of 4 numbers, described in any way."""
    path = torch_files.save({"a": np.arange(4.0)}, tmp_path / "a.pth")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = entries["archive/data.pkl"]

    def numbers(values):
        return b"(" + b"".join(b"J" + v.to_bytes(4, "little") for v in values) + b"t"

    before = b"K\x04tq\x07QK\x00K\x04\x85q\x08K\x01\x85q\t"
    assert pickled.count(before) == 1
    size = b"J" + numel.to_bytes(4, "little")
    after = size + b"tq\x07QJ" + offset.to_bytes(4, "little")
    after += numbers(shape) + b"q\x08" + numbers(strides) + b"q\t"
    entries["archive/data.pkl"] = pickled.replace(before, after)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_strides(tmp_path):
    state = load(_tensor(tmp_path, (2, 2), (1, 2)), 1 << 20)
    np.testing.assert_array_equal(state["a"], [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    ("shape", "strides", "numel", "offset"),
    [
        ((5,), (1,), 4, 0),
        ((4,), (1,), 4, 1),
        ((2, 2), (2, 2), 4, 0),
        ((1 << 30,), (0,), 4, 0),
        ((1 << 20, 1 << 20), (0, 0), 4, 0),
        ((4,), (1,), 1 << 30, 0),
        ((4,), (1, 1), 4, 0),
        ((1,) * 40, (1,) * 40, 4, 0),
    ],
)
def test_tensors_that_their_storage_does_not_hold(
    tmp_path, shape, strides, numel, offset
):
    path = _tensor(tmp_path, shape, strides, numel, offset)
    with pytest.raises(UserError, match="must be readable"):
        read_checkpoint(path)


def test_compressed_archives_are_refused(tmp_path):
    """They could unpack to any size."""
    data = _archive(pickle.dumps({}, 2), compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UserError, match="must be readable"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".",
        b"\x80\x02]r\xff\xff\xff\xff.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x80\x02\x8b\xff\xff\xff\x7fa.",
        b"\x80\x02T\xff\xff\xff\x7fa.",
    ],
    ids=["lists", "marks", "memo", "string", "number", "bytes"],
)
def test_pickles_that_ask_for_memory(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(_archive(data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="A PyTorch checkpoint must"):
        read_checkpoint(tmp_path / "a.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mutations_end_in_one_clear_error(path, tmp_path):
    """Or in the same containers of arrays: most bytes are numbers."""
    content, random = path.read_bytes(), np.random.default_rng(0)
    target, end, errors = tmp_path / "a.pth", time.monotonic() + 5, []
    for _ in range(1000):
        if time.monotonic() > end:
            break
        data = bytearray(content)
        for _ in range(random.integers(1, 4)):
            match random.integers(4):
                case 0:
                    data[random.integers(len(data))] ^= 1 << random.integers(8)
                case 1:
                    data[random.integers(len(data))] = random.integers(256)
                case 2:
                    del data[random.integers(len(data)) :]
                    data += b"\x00" * int(random.integers(3))
                case _:
                    at, count = random.integers(len(data)), random.integers(1, 9)
                    data[at : at + count] = random.bytes(int(random.integers(9)))
            if not data:
                data += b"."
        target.write_bytes(data)
        try:
            read_checkpoint(target)
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 20
    assert not any("\n" in error for error in errors)


def test_a_foreign_object_says_its_name(tmp_path):
    (tmp_path / "a.pth").write_bytes(_archive(b"cnumpy\nndarray\n."))
    with pytest.raises(ForeignObject, match=r"^numpy\.ndarray$"):
        load(tmp_path / "a.pth", 1 << 20)
