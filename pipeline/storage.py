"""Storage that outlasts this machine: named objects below one address.

Any file system that pyarrow.fs knows (s3://, gs://, file://, a path), or else fsspec (sftp://,
hf://, memory://, …). Who may write there comes from the environment (AWS_ACCESS_KEY_ID, …), never
from the address. Everything here blocks, and raises whatever the file system raises.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pipeline.errors import BadInputError
from pipeline.files import atomic_file
from pipeline.reasons import plain_reason
from pipeline.redaction import redact

BLOCK = 1 << 20
# What pyarrow has a file system of its own for; it knows the rest through fsspec.
BY_PYARROW = ("s3", "gs", "gcs", "file", "hdfs", "viewfs", "abfs", "abfss")
WITHOUT_FOLDERS = ("s3", "gcs")  # there a name alone makes an object
# Options of an address, as S3FileSystem takes them, …
S3_OPTIONS: dict[str, Callable[[str], Any]] = {
    "region": str,
    "scheme": str,
    "endpoint_override": str,
    "tls_ca_file_path": str,
    "allow_bucket_creation": lambda text: text in ("true", "1"),
    "allow_bucket_deletion": lambda text: text in ("true", "1"),
}
# … as nothing but an address takes them (a silent server is waited for longer), …
MORE_OF_S3 = ("allow_delayed_open", "smart_defaults", "tls_verify_certificates")
# … and all there are, by protocol.
OF_GCS = ("scheme", "endpoint_override", "retry_limit_seconds", "project_id")
OPTIONS = {"s3": (*S3_OPTIONS, *MORE_OF_S3), "gs": OF_GCS, "gcs": OF_GCS}
S3_TIMEOUT_S = 5.0  # without a byte of an answer
OF_AWS = re.compile(r"AWS Error \w+ during \w+ operation: (?:curlCode: \d+, )?(.*?) *(;|\(Req|$)")


class DamagedObjectError(Exception):
    """An object is not what it should be; the message says which and how."""


class Storage:
    """Objects below `address`, which `check_address` has let pass.

    Raises:
        BadInputError: Nothing here speaks the address's protocol, or it makes no sense to it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            self._files, self._root = _file_system(address)
        except (ImportError, ValueError) as error:
            raise BadInputError(f"'{redact(address)}': {_one_line(error)}") from None
        self._is_local = self._files.type_name == "local"

    def write(self, name: str, blocks: Iterable[bytes]) -> None:
        """Make `name` hold `blocks`. It counts only once this has returned: it may appear torn.

        In a folder it does not: it gets its name, or replaces what had it, once it is on disk.
        """
        path = self._path(name)
        if self._files.type_name not in WITHOUT_FOLDERS:
            self._files.create_dir(str(PurePosixPath(path).parent), recursive=True)
        if self._is_local:
            with atomic_file(Path(path)) as temporary, temporary.open("wb") as file:
                file.writelines(blocks)
            return
        with self._files.open_output_stream(path) as stream:
            for block in blocks:
                stream.write(block)

    def blocks(self, name: str, limit: int) -> Iterator[bytes]:
        """Yield what `name` holds, in blocks.

        Raises:
            DamagedObjectError: It holds more than `limit` bytes, or is a link.
            FileNotFoundError: It is not there.
        """
        path, left = self._path(name), limit
        if self._is_local and _has_link(Path(self._root), name):
            raise DamagedObjectError(f"{name}: is a link")
        with self._files.open_input_stream(path) as stream:
            while block := stream.read(BLOCK):
                left -= len(block)
                if left < 0:
                    raise DamagedObjectError(f"{name}: longer than {limit} bytes")
                yield block

    def read(self, name: str, limit: int) -> bytes:
        """Return all that `name` holds; raises as `blocks` does."""
        return b"".join(self.blocks(name, limit))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return name and size of all objects in `folder` and below; none if it is not there."""
        from pyarrow import fs

        base = self._path(folder)
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        found = self._files.get_file_info(selector)
        prefix = f"{self._root}/"
        return {
            info.path.removeprefix(prefix): info.size
            for info in found
            if info.type == fs.FileType.File and info.path.startswith(prefix)
        }

    def size(self, name: str) -> int:
        """Return how many bytes `name` holds; -1 if it is not there."""
        found = self._files.get_file_info(self._path(name))
        return int(found.size) if found.is_file else -1

    def remove(self, name: str) -> None:
        """Remove `name` if it is there."""
        try:
            self._files.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def check_address(address: str) -> None:
    """Raise BadInputError for an address that nothing installed here can open. Asks no server."""
    protocol = address.partition("://")[0] if "://" in address else "file"
    known = OPTIONS.get(protocol, ())
    if known and (unknown := sorted(_options(address).keys() - set(known))):
        raise BadInputError(
            f"'{redact(address)}': unknown option '{unknown[0][:40]}'; expected one of "
            f"{', '.join(known)}"
        )
    if protocol in BY_PYARROW:
        return
    try:
        import fsspec

        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise BadInputError(f"'{redact(address)}': {_one_line(error)}") from None


def absolute_address(text: str) -> str:
    """Return a path as an absolute one, and a URI as it is; ValueError for one without a place."""
    if text and not is_address(text):
        try:
            return os.path.abspath(Path(text).expanduser())
        except RuntimeError:  # as of ~nobody/x
            raise ValueError(f"'{text}': there is no such user's home") from None
    if text and not text.partition("://")[2].partition("?")[0].strip("/"):
        raise ValueError(f"'{redact(text)}': expected a place in it, as in s3://bucket/runs")
    return text


def local_path(address: str) -> Path | None:
    """Return the path that `address` means, if it means one of this machine."""
    if not is_address(address):
        return Path(address)
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def is_address(text: str) -> bool:
    """Tell whether `text` is a URI, and no run id or path."""
    return re.match(r"[A-Za-z][\w.+-]+://", text) is not None


def below(address: str, name: str) -> str:
    """Return the address of `name` below `address`; what follows a question mark stays last."""
    place, mark, query = address.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{query}"


def parent_and_name(address: str) -> tuple[str, str]:
    """Return what `below` would make `address` of; BadInputError if there is no such thing."""
    place, mark, query = address.partition("?")
    parent, _, name = place.rstrip("/").rpartition("/")
    if not name or not parent.rstrip("/") or parent.endswith(("/", ":")):
        raise BadInputError(f"'{redact(address)}': expected the address of a run's copy")
    return parent + mark + query, name


def reason_of(error: BaseException) -> str:
    """Return in plain words, one line, without passwords, what is wrong with the storage."""
    if match := OF_AWS.search(str(error)):
        return redact(match[1]) or plain_reason(error)
    return plain_reason(error)


def _file_system(address: str) -> tuple[Any, str]:
    """Return the file system of `address`, and the path in it."""
    from pyarrow import fs

    protocol = address.partition("://")[0] if is_address(address) else "file"
    if protocol == "s3":
        files, path = _s3(address)
    elif protocol in BY_PYARROW:
        files, path = fs.FileSystem.from_uri(address)
    else:
        import fsspec

        other, path = fsspec.core.url_to_fs(address)
        files = fs.PyFileSystem(fs.FSSpecHandler(other))
    return files, path.rstrip("/")


def _s3(address: str) -> tuple[Any, str]:
    """Return a client of S3 that waits for seconds, and not for minutes, for a silent server.

    It writes a small object by one request, not three, and of a large one holds a part at a time:
    whoever gives it blocks knows how far it is.
    """
    from pyarrow import fs

    files, path = fs.FileSystem.from_uri(address)
    given = _options(address)
    if given.keys() - S3_OPTIONS.keys():
        return files, path
    options = {key: S3_OPTIONS[key](text) for key, text in given.items()}
    of_environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if of_environment:
        options.setdefault("endpoint_override", of_environment)
    client = fs.S3FileSystem(
        **{**options, "region": files.region},
        connect_timeout=S3_TIMEOUT_S,
        request_timeout=S3_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
        allow_delayed_open=True,
        background_writes=False,
    )
    return client, path


def _options(address: str) -> dict[str, str]:
    return dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))


def _has_link(root: Path, name: str) -> bool:
    path = root
    for part in PurePosixPath(name).parts:
        path /= part
        if path.is_symlink():
            return True
    return False


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs the package {error.name}; install it with pip"
    return redact(" ".join(str(error).split()))[:200] or type(error).__name__
