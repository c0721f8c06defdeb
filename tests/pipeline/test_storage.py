"""Storage elsewhere: a folder, memory, and a real S3 server."""

from __future__ import annotations

import os
import secrets
import threading
import time

import pytest

from pipeline.errors import BadInputError
from pipeline.storage import (
    DamagedObjectError,
    Storage,
    absolute_address,
    below,
    check_address,
    is_address,
    parent_and_name,
    reason_of,
)
from tests.pipeline.storage_for_tests import needs_moto, s3  # noqa: F401
from tests.processes import wait_until

KINDS = ["path", "file", "memory", pytest.param("s3", marks=needs_moto)]


@pytest.fixture(params=KINDS)
def storage(request, tmp_path):
    address = {
        "path": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://store-{secrets.token_hex(4)}",
    }
    if request.param == "s3":
        address["s3"] = request.getfixturevalue("s3").address
    return Storage(below(address[request.param], f"run-{secrets.token_hex(4)}"))


def test_objects_are_what_was_written(storage):
    assert storage.sizes() == {}
    storage.write("files/a b=1/x.bin", [b"12", b"345"])
    storage.write("copies/1.json", [b"{}"])
    storage.write("copies/1.json", [b"[1]"])
    assert storage.sizes() == {"files/a b=1/x.bin": 5, "copies/1.json": 3}
    assert storage.sizes("files") == {"files/a b=1/x.bin": 5}
    assert storage.sizes("none") == {}
    assert storage.read("files/a b=1/x.bin", 5) == b"12345"
    assert (storage.size("copies/1.json"), storage.size("copies/2.json")) == (3, -1)
    storage.remove("copies/1.json")
    storage.remove("copies/1.json")
    assert storage.sizes("copies") == {}


def test_no_more_is_read_than_there_may_be_and_what_is_not_there_is_told(storage):
    storage.write("big", [b"x" * (1 << 20)] * 3)
    blocks = storage.blocks("big", (1 << 20) + 5)
    with pytest.raises(DamagedObjectError, match="longer than"):
        list(blocks)
    with pytest.raises(FileNotFoundError):
        storage.read("none", 10)


def test_in_a_folder_an_object_is_there_whole_or_as_it_was(tmp_path):
    storage = Storage(str(tmp_path / "store"))
    storage.write("owner.json", [b"before"])
    there = storage.size

    def blocks():
        yield b"half of "
        assert there("owner.json") == len(b"before")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.write("owner.json", blocks())
    assert storage.read("owner.json", 100) == b"before"
    assert storage.sizes() == {"owner.json": 6}


def test_a_link_in_a_folder_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    storage = Storage(str(tmp_path / "store"))
    storage.write("files/a", [b"1"])
    os.symlink(tmp_path / "secret", tmp_path / "store" / "files" / "b")
    os.symlink(tmp_path, tmp_path / "store" / "more")
    for name in ("files/b", "more/secret"):
        with pytest.raises(DamagedObjectError, match="link"):
            storage.read(name, 100)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense://x/y", "nonsense"),
        ("hf://datasets/a/b", "huggingface_hub"),
        ("sftp://host/x", "paramiko"),
    ],
)
def test_what_nothing_here_can_open_is_one_line(address, said):
    package = {"huggingface_hub": "huggingface_hub", "paramiko": "paramiko"}.get(said)
    if package and not _is_missing(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(BadInputError, match=said) as told:
        check_address(address)
    assert "\n" not in str(told.value)


def _is_missing(package):
    import importlib.util

    return importlib.util.find_spec(package) is None


def test_an_option_that_s3_does_not_know_is_told():
    for address in ("s3://bucket/x?foo=1", "gs://bucket/x?scheme=http&foo=1", "gcs://bucket?foo="):
        with pytest.raises(BadInputError, match=r"unknown option 'foo'; expected one of"):
            check_address(address)
    check_address("s3://bucket/x?scheme=http&endpoint_override=h:1&allow_bucket_creation=true")
    check_address("gs://bucket/x?project_id=a")
    with pytest.raises(BadInputError, match="foo"):
        Storage("s3://bucket/x?foo=1&endpoint_override=http://127.0.0.1:1")


def test_addresses_are_put_together_and_taken_apart():
    for parent in (
        "s3://bucket",
        "s3://bucket/runs?endpoint_override=h:1",
        "/data/runs",
        "file:///x",
    ):
        assert parent_and_name(below(parent, "run-1")) == (parent, "run-1")
    assert parent_and_name("s3://bucket/run-1/") == ("s3://bucket", "run-1")
    for text in ("s3://bucket", "memory://run", "/run", "s3://"):
        with pytest.raises(BadInputError):
            parent_and_name(text)
    assert is_address("s3://b/x")
    assert not any(map(is_address, ("run-1", "/a/b", "C:/x", "")))


def test_a_path_is_kept_whole_and_an_address_needs_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_address("../x") == str(tmp_path.parent / "x")
    assert absolute_address("s3://b/x") == "s3://b/x"
    assert absolute_address("") == ""
    with pytest.raises(ValueError, match="place"):
        absolute_address("s3://?region=x")


def test_what_aws_says_is_told_in_plain_words():
    error = OSError(
        "When initiating multiple part upload for key 'nix' in bucket 'none': AWS Error "
        "NO_SUCH_BUCKET during CreateMultipartUpload operation: The specified bucket does not "
        "exist (Request ID: ZTjL)"
    )
    assert reason_of(error) == "The specified bucket does not exist"
    error = OSError(
        "When getting information for key 'x' in bucket 'b': AWS Error NETWORK_CONNECTION during "
        "HeadObject operation: curlCode: 7, Could not connect to server; Details: Failed to"
    )
    assert reason_of(error) == "Could not connect to server"


@needs_moto
def test_another_s3_endpoint_is_taken_from_the_environment(s3, monkeypatch):  # noqa: F811
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    name = f"run-{secrets.token_hex(4)}"
    Storage(f"s3://bucket/runs/{name}").write("x", [b"1"])
    assert Storage(below(s3.address, name)).sizes() == {"x": 1}


@needs_moto
@pytest.mark.parametrize("option", ["", "&allow_bucket_creation=true"])
def test_a_server_that_is_silent_is_waited_for_a_few_seconds_only(
    option,
    s3,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setattr("pipeline.storage.S3_TIMEOUT_S", 1.0)
    storage = Storage(below(s3.address + option, "silent"))
    s3.stop()
    try:
        begun = time.monotonic()
        with pytest.raises(OSError, match="AWS"):
            storage.size("x")
        assert time.monotonic() < begun + 20
    finally:
        s3.go_on()


@needs_moto
def test_a_large_object_is_read_as_fast_as_it_is_sent(s3):  # noqa: F811
    storage = Storage(below(s3.address, "large"))
    read = []

    def blocks():
        for number in range(100):
            if number == 25:
                s3.stop()
            read.append(number)
            yield bytes(1 << 20)

    thread = threading.Thread(target=storage.write, args=("x", blocks()))
    thread.start()
    try:
        wait_until(lambda: len(read) > 25)
        time.sleep(2)  # in which all of it could be read
        assert len(read) < 60
    finally:
        s3.go_on()
        thread.join(60)
    assert storage.size("x") == 100 << 20
