"""Whether an address can be that of an MLflow store at all, asked before a run and not during it.

What is wrong here stays wrong, however often it is tried; a server that is away is another matter.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import BadInputError
from pipeline.redaction import redact

SQLITE = "sqlite:///"
# What to install for a driver whose package has another name.
PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}


def check_address(uri: str) -> None:
    """Raise BadInputError for a server without a name, a file that is none, a driver not there."""
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif uri.startswith(SQLITE):
        if set("?%") & set(uri):  # they mean something else there than in a file's name
            raise _refused(uri, "holds '?' or '%'; expected e.g. sqlite:////home/me/mlflow.db")
        path = Path(uri.removeprefix(SQLITE))
        if path == Path() or path.is_dir():
            raise _refused(uri, "names no file; expected e.g. sqlite:////home/me/mlflow.db")
    else:
        _check_driver(uri)


def _check_server(uri: str) -> None:
    with contextlib.suppress(ValueError):  # a port that is no number, half an IPv6 address
        parts = urlsplit(uri)
        if parts.hostname and parts.port != 0:
            return
    raise _refused(uri, "names no server; expected e.g. http://host:5000")


def _check_driver(uri: str) -> None:
    from sqlalchemy.engine import make_url  # takes a moment, which servers do without
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(uri)
        driver = parts.get_dialect()
        if parts.drivername.startswith("sqlite"):
            raise _refused(uri, "names no file; expected e.g. sqlite:////home/me/mlflow.db")
        driver.import_dbapi()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        raise _refused(
            uri,
            f"its driver {name} is not installed here; pip install '{PACKAGES.get(name, name)}'",
        ) from None
    except ImportError as error:
        raise _refused(uri, f"its driver cannot be loaded: {redact(str(error))}") from None
    except BadInputError:
        raise
    except (ArgumentError, ValueError):  # their texts may quote a password
        raise _refused(
            uri,
            "is no address of a database with a driver that SQLAlchemy knows; expected e.g. "
            "postgresql://host:5432/name",
        ) from None


def _refused(uri: str, why: str) -> BadInputError:
    return BadInputError(
        f"tracking.uri '{redact(uri)}': {why} (tracking.uri or MLFLOW_TRACKING_URI says it)"
    )
