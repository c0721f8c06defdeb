import sys

import pytest

from pipeline.progress import SilentProgress
from pipeline.redaction import redact
from pipeline.run_log import logged_to


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://***@host/db"),
        ("mysql+pymysql://me:p@w@host/db?password=x", "mysql+pymysql://***@host/db?password=***"),
        ("https://token@host:5000/path", "https://***@host:5000/path"),
        ("https://host:5000/path", "https://host:5000/path"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("postgresql://me:p/w@host/db", "postgresql://***@host/db"),
        ("postgresql://me:p?w#@host/db", "postgresql://***@host/db"),
        ("http://tok/en@host", "http://***@host"),
        ("http://host?api_key=x&auth_token=y", "http://host?api_key=***&auth_token=***"),
        ("http://mlflow:5000/#/x?filter=me@example.org",) * 2,
        ("http://mlflow/?filter=me@example.org",) * 2,
        ("expected one of key=a",) * 2,
        ("override meta.stepz=3: unknown key (did you mean num_steps=3?)",) * 2,
        ("cannot reach http://me:pw@host: refused", "cannot reach http://***@host: refused"),
    ],
)
def test_passwords_are_redacted(text, shown):
    assert redact(text) == shown


def test_the_command_in_a_runs_log_holds_no_password(tmp_path, monkeypatch):
    words = ["outerloop", "train", "tracking.uri=http://me:pw@host", "name=a b"]
    monkeypatch.setattr(sys, "argv", words)
    with logged_to(tmp_path / "log.txt", SilentProgress()):
        pass
    log = (tmp_path / "log.txt").read_text()
    assert "command: outerloop train 'tracking.uri=http://***@host' 'name=a b'\n" in log
