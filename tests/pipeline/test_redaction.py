import sys

import pytest

from pipeline.config import build_experiment
from pipeline.errors import BadInputError
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
        ("http://host:5000#s3cret", "http://host:5000#***"),
        ("s3://bucket/runs?region=x#s3cret", "s3://bucket/runs?region=x#***"),
        ("cannot reach 'http://host/#a#b': refused", "cannot reach 'http://host/#***': refused"),
        ("http://host/#access_token=x&state=y http://a", "http://host/#*** http://a"),
        ("http://me:pw@host/#s3cret", "http://***@host/#***"),
        ("see http://host:5000/#/experiments/1/runs/2, please",) * 2,
        ("sqlite:////home/me/a#1.db",) * 2,
        ("file:///home/me/a#1",) * 2,
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


@pytest.mark.parametrize("key", ["tracking.uri", "checkpoint.copy_to"])
def test_a_configuration_keeps_no_fragment_and_shows_none(key):
    section, name = key.split(".")
    with pytest.raises(BadInputError, match="holds no password, and no #") as error:
        build_experiment({section: {name: "https://host/x#s3cret"}}, "an experiment")
    assert "s3cret" not in str(error.value)


def test_the_command_in_a_runs_log_holds_no_password(tmp_path, monkeypatch):
    words = ["outerloop", "train", "tracking.uri=http://me:pw@host", "name=a b"]
    monkeypatch.setattr(sys, "argv", words)
    with logged_to(tmp_path / "log.txt", SilentProgress()):
        pass
    log = (tmp_path / "log.txt").read_text()
    assert "command: outerloop train 'tracking.uri=http://***@host' 'name=a b'\n" in log
