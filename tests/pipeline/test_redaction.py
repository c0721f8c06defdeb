import pytest

from pipeline.redaction import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://***@host/db"),
        ("mysql+pymysql://me:p@w@host/db?password=x", "mysql+pymysql://***@host/db?password=***"),
        ("https://token@host:5000/path", "https://***@host:5000/path"),
        ("https://host:5000/path", "https://host:5000/path"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("cannot reach http://me:pw@host: refused", "cannot reach http://***@host: refused"),
    ],
)
def test_passwords_are_redacted(text, shown):
    assert redact(text) == shown
