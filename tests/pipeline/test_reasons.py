"""What MLflow's client really raises, in plain words."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline.delivery import Delivery
from pipeline.reasons import MAX_CHARACTERS, plain_reason


class Refuses(BaseHTTPRequestHandler):
    """Answers /503/… with 503, and so on."""

    def do_GET(self):
        self.send_error(int(self.path.split("/")[1]))

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def refusing():
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def reason(uri, tmp_path):
    with pytest.raises(Exception) as failure:  # noqa: PT011 its class is what must not matter
        Delivery(tmp_path / "run", uri, "reasons").deliver()
    return plain_reason(failure.value)


def test_nobody_there(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert reason(uri, tmp_path) == "connection refused"


def test_a_host_of_no_name(tmp_path):
    assert reason("http://nowhere.invalid:5000", tmp_path) == "the host name is not known"


def test_no_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert reason(uri, tmp_path) == "no answer in time"


@pytest.mark.parametrize(
    ("code", "said"), [(401, "401 (Unauthorized)"), (503, "503 (Service Unavailable)")]
)
def test_a_server_that_refuses(refusing, tmp_path, code, said):
    assert reason(f"http://{refusing}/{code}", tmp_path) == f"the server answers {said}"


def test_a_server_without_encryption(refusing, tmp_path):
    assert reason(f"https://{refusing}", tmp_path).startswith("no secure connection: ")


def test_a_database_that_is_none(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 500)
    assert reason(f"sqlite:///{tmp_path}/mlflow.db", tmp_path) == "file is not a database"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    said = reason(f"sqlite:///{tmp_path}/file/deep/mlflow.db", tmp_path)
    assert said == f"{tmp_path}/file/deep: not a directory"


def test_anything_else_is_its_own_first_line_without_passwords_and_not_endless():
    assert plain_reason(ValueError("bad http://me:pw@host\nand more")) == "bad http://***@host"
    assert plain_reason(ValueError()) == "ValueError"
    assert len(plain_reason(ValueError("x" * 999))) == MAX_CHARACTERS + 1


def test_errors_that_name_each_other_in_a_circle_come_to_an_end():
    first, second = ValueError("first"), ValueError("second")
    with contextlib.suppress(ValueError):
        raise first from second
    second.__cause__ = first
    assert plain_reason(first) == "first"
