import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.alphabets import AlphabetSet, content_digest, lay_out
from pipeline.data.cache import cached, read, write
from pipeline.errors import BadInputError


def small_set(value=7):
    alphabets = lay_out([("A", 3, 4), ("B", 2, 4)])
    images = (
        np.full((20, 28, 28), value, dtype=np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None]
    )
    return AlphabetSet(
        name="small",
        images=images,
        alphabets=alphabets,
        source="a test",
        licence="none",
        digest=content_digest(alphabets, images),
    )


def same(one, other):
    fields = ("name", "alphabets", "source", "licence", "digest")
    return all(getattr(one, f) == getattr(other, f) for f in fields) and np.array_equal(
        one.images, other.images
    )


def never():
    raise AssertionError("decoded although the cache has it")


def test_second_load_does_not_decode(tmp_path):
    first = cached(tmp_path, "small", "v1", small_set)
    assert same(first, small_set())
    assert same(cached(tmp_path, "small", "v1", never), first)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_images_are_mapped_read_only_not_copied(tmp_path):
    images = cached(tmp_path, "small", "v1", small_set).images
    assert not images.flags.writeable
    assert not images.flags.owndata
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line for line in maps if "small-" in line]
    low, high = (int(a, 16) for a in mapped[0].split()[0].split("-"))
    assert low <= images.ctypes.data < high


def test_another_identity_is_decoded_anew(tmp_path):
    cached(tmp_path, "small", "v1", small_set)
    other = cached(tmp_path, "small", "v2", lambda: small_set(90))
    assert same(other, small_set(90))
    assert same(cached(tmp_path, "small", "v1", never), small_set())


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.97, -1])
def test_truncated_file_is_rebuilt(tmp_path, keep):
    cached(tmp_path, "small", "v1", small_set)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    assert read(path) is None
    assert same(cached(tmp_path, "small", "v1", small_set), small_set())
    assert path.read_bytes() == whole


def test_flipped_pixels_and_header_are_noticed(tmp_path):
    path = tmp_path / "small.arrow"
    write(path, small_set())
    whole = path.read_bytes()
    pixel = whole.index(bytes([9]) * 784) + 300
    header = whole.rindex(b'"licence"') + 3  # in the footer, which is the copy that counts
    for place in (pixel, header):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read(path) is None


def test_any_flipped_byte_is_harmless_or_noticed(tmp_path):
    path = tmp_path / "small.arrow"
    write(path, small_set())
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 200):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        found = read(path)
        assert found is None or same(found, small_set())


def decode_together(folder, barrier, results):
    def decode():
        barrier.wait(timeout=60)  # both have found nothing and decode at the same time
        return small_set()

    found = cached(folder, "small", "v1", decode)
    results.put((found.digest, int(found.images.sum())))


def test_two_processes_may_decode_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=decode_together, args=(tmp_path, barrier, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert found == [(small_set().digest, int(small_set().images.sum()))] * 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]


def test_failed_write_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("in the way")
    with pytest.raises(BadInputError, match="OUTERLOOP_CACHE"):
        cached(folder, "small", "v1", small_set)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
