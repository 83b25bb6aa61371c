import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larq_nobn import UserError
from larq_nobn.weights.arrays import read_npz, write_npz

ARRAYS = {
    "stem/kernel": np.random.default_rng(0).standard_normal((3, 3, 2, 4)),
    "half": np.arange(5, dtype=np.float16),
    "bits": np.arange(7, dtype=np.uint8),
    "scalar": np.float32(3.5),
    "counter": np.int64(1),
    "empty": np.zeros((0, 3), np.float32),
}
ENOUGH = 1 << 16


@pytest.mark.parametrize("compress", [False, True])
def test_round_trip(tmp_path, compress):
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS, compress)
    for arrays in (read_npz(path, ENOUGH), np.load(path, allow_pickle=False)):
        assert list(arrays) == list(ARRAYS)
        for name, expected in ARRAYS.items():
            assert arrays[name].dtype == expected.dtype
            np.testing.assert_array_equal(arrays[name], expected)


def test_reads_numpys_own_files(tmp_path):
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez_compressed(tmp_path / "a.npz", fortran=fortran, **ARRAYS)
    arrays = read_npz(tmp_path / "a.npz", ENOUGH)
    np.testing.assert_array_equal(arrays["fortran"], fortran)
    np.testing.assert_array_equal(arrays["stem/kernel"], ARRAYS["stem/kernel"])


def test_equal_arrays_make_equal_files(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", ARRAYS)
    monkeypatch.setattr("time.time", lambda: 0.0)
    write_npz(tmp_path / "b.npz", ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_too_large(tmp_path):
    path = tmp_path / "bomb.npz"
    write_npz(path, {"a": np.zeros(10_000_000, np.float32)}, compress=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="unpacks to 40,000,128 bytes, where at most"):
        read_npz(path, ENOUGH)


def test_bomb_that_lies_about_its_size(tmp_path):
    """The sizes in the zip's directory are small; the stream inflates to 40 MB."""
    path = tmp_path / "bomb.npz"
    write_npz(path, {"a": np.zeros(10_000_000, np.float32)}, compress=True)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.start_dir
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].file_size == 1000
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="must be an .npz file of plain arrays"):
            read_npz(path, ENOUGH)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


class _Payload:
    ran = False

    def __reduce__(self):
        return setattr, (_Payload, "ran", True)


def test_pickle_is_not_run(tmp_path):
    objects = np.array([_Payload()], dtype=object)
    np.savez(tmp_path / "a.npz", a=objects)
    with pytest.raises(UserError, match="'a', which is pickled objects, which are nev"):
        read_npz(tmp_path / "a.npz", ENOUGH)
    assert not _Payload.ran
    np.load(tmp_path / "a.npz", allow_pickle=True)["a"]
    assert _Payload.ran


def _zip(path, entries, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def _npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = _npy(np.arange(3.0))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a.txt", b"hello")], "the entry 'a.txt', unexpected"),
        ([("a.npy", b"hello")], "'a', which is no array"),
        ([("a.npy", GOOD[:-8])], r"'a' of shape \(3,\) in 16 bytes"),
        ([("a.npy", GOOD[:9])], "damaged one"),
        ([("a.npy", _npy(np.array(["x"])))], "no array of plain numbers"),
        ([("a.npy", _npy(np.zeros(1, [("x", "<f4")])))], "no array of plain numbers"),
        ([("a.npy", _npy(np.arange(3, dtype=">f4")))], "no array of plain numbers"),
        ([("a.npy", GOOD.replace(b"'<f8'", b"print"))], "no array of plain numbers"),
        ([("a.npy", GOOD.replace(b"(3,)", b"(-3)"))], "no array of plain numbers"),
        ([("a.npy", GOOD.replace(b"\x01\x00v", b"\x03\x00v"))], "which is no array"),
    ],
)
def test_wrong_content(tmp_path, entries, message):
    _zip(tmp_path / "a.npz", entries)
    with pytest.raises(UserError, match=message):
        read_npz(tmp_path / "a.npz", ENOUGH)


def test_same_name_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        _zip(tmp_path / "a.npz", [("a.npy", GOOD), ("a.npy", GOOD)])
    with pytest.raises(UserError, match="the entry 'a.npy', unexpected"):
        read_npz(tmp_path / "a.npz", ENOUGH)


def test_other_compression(tmp_path):
    _zip(tmp_path / "a.npz", [("a.npy", GOOD)], zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match="'a.npy' in compression 14"):
        read_npz(tmp_path / "a.npz", ENOUGH)


def test_encrypted(tmp_path):
    _zip(tmp_path / "a.npz", [("a.npy", GOOD)])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        content[archive.start_dir + 8] |= 1
    content[6] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="damaged one .*encrypted"):
        read_npz(tmp_path / "a.npz", ENOUGH)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04", b"\x80\x04."])
def test_not_a_zip(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a damaged one .*not a zip"):
        read_npz(tmp_path / "a.npz", ENOUGH)


def test_nothing_is_left_after_a_failed_write(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        write_npz(tmp_path / "a.npz", {"a": np.array([None])})
    assert list(tmp_path.iterdir()) == []


def _reads_or_refuses(path, content):
    path.write_bytes(content)
    try:
        arrays = read_npz(path, ENOUGH)
    except UserError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= ENOUGH


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "a.npz"


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    files = []
    for compress in (False, True):
        write_npz(folder / "a.npz", ARRAYS, compress)
        files.append((folder / "a.npz").read_bytes())
    return files


EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)), min_size=1
)


@settings(max_examples=400, deadline=None)
@given(which=st.integers(0, 1), edits=EDITS, keep=st.floats(0.5, 1))
def test_fuzz_damaged(fuzzed, valid, which, edits, keep):
    content = valid[which]
    for position, inserted, removed in edits:
        at = int(position * len(content))
        content = content[:at] + inserted + content[at + removed :]
    _reads_or_refuses(fuzzed, content[: int(keep * len(content)) + 1])


@settings(max_examples=400, deadline=None)
@given(header=st.text(max_size=200), data=st.binary(max_size=64))
def test_fuzz_headers(fuzzed, header, data):
    encoded = header.encode("latin1", "replace")
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + data
    _zip(fuzzed, [("a.npy", npy)])
    _reads_or_refuses(fuzzed, fuzzed.read_bytes())


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from(["<f4", "|u1", "|O", "<U4", "<f8"]),
    fortran=st.booleans(),
    shape=st.lists(st.integers(0, 10**30), max_size=40),
    data=st.binary(max_size=64),
)
def test_fuzz_shapes(fuzzed, dtype, fortran, shape, data):
    inner = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    header = (
        f"{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': ({inner}), }}\n"
    ).encode()
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
    _zip(fuzzed, [("a.npy", npy)])
    _reads_or_refuses(fuzzed, fuzzed.read_bytes())
