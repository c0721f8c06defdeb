import pytest

from pipeline import delivery
from tests.pipeline.mlflow_for_tests import Server


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A store that several tests share, as it takes seconds to set up."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def often(monkeypatch):
    """Deliver at once, and after a failure soon again."""
    monkeypatch.setattr(delivery, "DELIVER_EVERY_S", 0.02)
    monkeypatch.setattr(delivery, "MAX_BACK_OFF_S", 0.2)
    monkeypatch.setattr(delivery, "AT_END_EVERY_S", 0.02)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()
