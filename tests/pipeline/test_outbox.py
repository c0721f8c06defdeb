import errno
import os
import shutil

import pytest

from pipeline.outbox import Outbox, pending_items


@pytest.mark.parametrize("links", [True, False])
def test_an_item_holds_its_files_until_it_is_discarded(tmp_path, monkeypatch, links):
    def no_links(*_):
        raise OSError(errno.EXDEV, "another file system")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "step-000001" / "shard"
    path.parent.mkdir()
    path.write_bytes(b"parameters")
    outbox = Outbox(tmp_path / "pending")
    outbox.put("model", {"name": "init"}, [path])
    shutil.rmtree(path.parent)
    Outbox(tmp_path / "pending")  # as the next process does
    (item,) = pending_items(tmp_path / "pending")
    (held,) = item.content["files"]
    with open(held, "rb") as file:
        assert file.read() == b"parameters"
    assert held.endswith("/shard")
    item.discard()
    assert list((tmp_path / "pending").iterdir()) == []


def test_files_whose_item_was_not_put_or_was_half_removed_are_removed(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"parameters")
    pending = tmp_path / "pending"
    outbox = Outbox(pending)
    with pytest.raises(TypeError):
        outbox.put("model", {"not JSON": object()}, [path])
    assert list(pending.iterdir()) == []
    outbox.put("model", {}, [path])
    (pending / "00000000-model.json").unlink()
    Outbox(pending)
    assert list(pending.iterdir()) == []
