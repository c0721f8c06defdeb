import pytest

from pipeline.data.omniglot import Omniglot


@pytest.fixture
def small_omniglot(monkeypatch):
    """Omniglot's class, but for one alphabet an archive: whole archives take seconds to build."""
    wanted = {"images_background.zip": {"Greek": 2}, "images_evaluation.zip": {"Angelic": 1}}
    monkeypatch.setattr(Omniglot, "alphabets", wanted)
    return wanted
