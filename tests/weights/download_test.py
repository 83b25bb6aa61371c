import hashlib
import os
import resource
import signal
import subprocess
import sys
import time

import mirror as behaviour
import pytest
from mirror import Mirror

from larq_nobn import UserError
from larq_nobn.weights import download

pytestmark = pytest.mark.network

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.npz").write_bytes(CONTENT)
    with Mirror(folder) as server:
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "deep" / "a.npz"


def fetch(server, target):
    download.download(f"{server.url}/a.npz", target, len(CONTENT), DIGEST)


def nothing_left(target):
    return not target.parent.exists() or list(target.parent.iterdir()) == []


def test_download(files, target):
    fetch(files, target)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["a.npz"]


def test_progress_bar(files, target, monkeypatch, capsys):
    # tqdm hides itself from pipes; here, standard error plays the terminal.
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fetch(files, target)
    error = capsys.readouterr().err
    assert "a.npz: 100%" in error
    assert "512k/512k" in error


def test_taken_up_where_it_broke(files, target):
    files.misbehave["a.npz"] = behaviour.cut_once_then_resume()
    fetch(files, target)
    assert target.read_bytes() == CONTENT
    assert files.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_begun_again_without_ranges(files, target):
    files.misbehave["a.npz"] = behaviour.cut_once()
    fetch(files, target)
    assert target.read_bytes() == CONTENT
    assert len(files.requests) == 2


@pytest.mark.parametrize(
    ("misbehaviour", "message"),
    [
        (behaviour.cut, r"sends 256,000 of 512,000 bytes, in 3 attempts"),
        (behaviour.redirect_in_a_loop, "redirects more than 5 times"),
        (behaviour.redirect_to_a_file, "cannot be reached .*No connection adapters"),
        (behaviour.redirect_to_nowhere, r"redirects to 'http://\["),
        (behaviour.redirect_to_a_broken_port, "cannot be reached"),
        (behaviour.html, r"sends 43 of 512,000 bytes"),
        (behaviour.server_error, "answers HTTP 503"),
        (behaviour.oversized, "sends more than the 512,000 bytes announced"),
        (behaviour.endless, "sends more than the 512,000 bytes announced"),
        (behaviour.bit_flipped, "must be the file that its card describes .SHA-256"),
    ],
)
def test_misbehaving_server(files, target, misbehaviour, message):
    files.misbehave["a.npz"] = misbehaviour
    with pytest.raises(UserError, match=message):
        fetch(files, target)
    assert nothing_left(target)


@pytest.mark.parametrize(
    ("misbehaviour", "message"),
    [
        (behaviour.hang, "does not answer within 0.3 seconds"),
        (behaviour.hang_in_the_middle, "stops answering for 0.3 seconds"),
        (behaviour.drip, "is too slow"),
        (behaviour.drip_headers, "is too slow"),
        (behaviour.endless_continue, "is too slow"),
    ],
)
def test_slow_server(files, target, monkeypatch, misbehaviour, message):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(download, "SLOWEST_BYTES_PER_SECOND", 10**6)
    files.misbehave["a.npz"] = misbehaviour
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        fetch(files, target)
    assert time.monotonic() - start < 10
    assert nothing_left(target)


@pytest.mark.parametrize(
    "misbehaviour",
    [behaviour.redirect_with_a_dripping_body, behaviour.redirect_with_an_endless_body],
)
def test_bodies_of_redirects_are_not_read(files, target, misbehaviour):
    (files.folder / "b.npz").write_bytes(CONTENT)
    files.misbehave["a.npz"] = misbehaviour
    start = time.monotonic()
    fetch(files, target)
    assert target.read_bytes() == CONTENT
    assert time.monotonic() - start < 10


def test_no_server(target):
    with Mirror(target.parent) as server:
        pass
    with pytest.raises(UserError, match="cannot be reached .*LARQ_NOBN_ZOO"):
        fetch(server, target)


def test_missing_file(files, target):
    (files.folder / "a.npz").unlink()
    with pytest.raises(UserError, match="does not have the file .HTTP 404."):
        fetch(files, target)
    assert download.get(f"{files.url}/a.npz", 10) is None


def test_small_files(files):
    assert download.get(f"{files.url}/a.npz", len(CONTENT)) == CONTENT
    # One byte more than allowed is enough to tell.
    assert download.get(f"{files.url}/a.npz", 100) == CONTENT[:101]
    files.misbehave["a.npz"] = behaviour.cut
    with pytest.raises(UserError, match="broke the connection"):
        download.get(f"{files.url}/a.npz", len(CONTENT))


def test_proxy(files, target, monkeypatch):
    monkeypatch.setenv("http_proxy", files.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    url = "http://zoo.invalid/a.npz"
    download.download(url, target, len(CONTENT), DIGEST)
    assert target.read_bytes() == CONTENT


def test_cache_that_cannot_be_written(files, tmp_path):
    # A file where a folder is needed; root may write to read-only folders.
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"need a folder to write to.*LARQ_NOBN_CACHE"):
        fetch(files, tmp_path / "cache" / "a.npz")


def test_full_disk(files, target):
    """The system's own limit on the size of files plays the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="File too large .*Fix: free some space"):
            fetch(files, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert nothing_left(target)


_CHILD = """
import sys
from pathlib import Path
from larq_nobn.weights.download import download
url, path, size, digest = sys.argv[1:]
download(url, Path(path), int(size), digest)
"""


def child(server, target):
    """Download in another process."""
    arguments = [f"{server.url}/a.npz", target, len(CONTENT), DIGEST]
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.mark.slow
def test_killed_and_at_once(files, target):
    """One process is killed in the middle; two others then download at once."""
    answer, sent = behaviour.half_then_hang()
    files.misbehave["a.npz"] = answer
    killed = child(files, target)
    assert sent.wait(120)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (left,) = target.parent.iterdir()
    assert left.name.startswith(".a.npz.")
    files.misbehave["a.npz"] = behaviour.together(2)
    children = [child(files, target) for _ in range(2)]
    assert [process.wait(120) for process in children] == [0, 0]
    assert target.read_bytes() == CONTENT
    # What the killed one left is never read, and removed a quarter of an hour later.
    assert {path.name for path in target.parent.iterdir()} == {left.name, "a.npz"}
    os.utime(left, (0, 0))
    (target.parent / ".mine.tmp").touch()
    files.misbehave.clear()
    fetch(files, target)
    assert {path.name for path in target.parent.iterdir()} == {".mine.tmp", "a.npz"}


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False)]
)
def test_offline(monkeypatch, value, expected):
    monkeypatch.setenv("LARQ_NOBN_OFFLINE", value)
    assert download.is_offline() is expected
