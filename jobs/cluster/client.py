"""The cluster's job server: finding it, asking it, and saying in a line what is wrong with it."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from pipeline.connection import TOKEN_ADVICE, first_line
from pipeline.errors import BadInputError, OuterloopError, RunFailedError
from pipeline.redaction import holds_password, redact

__all__ = ["JobDetails", "JobServer", "JobStatus"]

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
# Ray's client lets these stand above the address that it is given.
OVERRIDING = (ADDRESS_VARIABLE, "RAY_ADDRESS")
ANSWER_TIMEOUT_S = 10.0
EXPECTED = "expected the cluster's job server, e.g. http://head:8265"
# Ray's client logs, at INFO on the terminal, what it uploads and when it is disconnected.
TALKATIVE = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env")
STATUS_CODE = re.compile(r"status code (\d+): (.*)", re.S)
UNAUTHENTICATED = (401, 403)
START_TIMEOUT_S = 60.0
NOT_YET = "No available agent"
UNKNOWN_JOB = "does not exist"


class JobServer:
    """The job server of the cluster at `address`.

    Raises BadInputError, in a line, for an address where none answers, that wants a token, or
    whose Ray is of another version than this one; from every method for what it refuses.
    """

    def __init__(self, address: str | None) -> None:
        self.address = _checked(address or os.environ.get(ADDRESS_VARIABLE, ""))
        _check_version(self.address, _version_at(self.address))
        for name in TALKATIVE:
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        with self._said_plainly(), _without(OVERRIDING):
            self.client = JobSubmissionClient(self.address)
        # Private to Ray: its public `get_version` is that of the protocol.
        _check_version(self.address, getattr(self.client, "_server_ray_version", None) or "")

    def page(self, job_id: str) -> str:
        """Return the address of the job's page on the cluster's dashboard."""
        return f"{self.address}/#/jobs/{job_id}"

    def submit(self, job_id: str, **job: Any) -> None:
        """Submit a job of that name; BadInputError if there is, or was, one.

        A cluster that has just been started is waited for.
        """
        limit = time.monotonic() + START_TIMEOUT_S
        with self._said_plainly():
            while True:
                try:
                    self.client.submit_job(submission_id=job_id, **job)
                    return
                except RuntimeError as error:
                    if "already exists" in str(error):
                        raise BadInputError(
                            f"job '{job_id}': the cluster at {self.address} has, or had, a job of "
                            "that name; give another one with --job-id"
                        ) from None
                    if NOT_YET not in str(error) or time.monotonic() > limit:
                        raise
                time.sleep(1.0)

    def find(self, job_id: str) -> JobDetails:
        """Return what the cluster knows of the job; BadInputError if that is nothing."""
        with self._said_plainly():
            try:
                return self.client.get_job_info(job_id)
            except RuntimeError as error:
                if UNKNOWN_JOB not in str(error):
                    raise
        known = ", ".join(str(job.submission_id) for job in self.jobs()[:5])
        raise BadInputError(
            f"unknown job '{job_id}' at {self.address}; "
            + (f"newest: {known}" if known else "there is none")
        )

    def jobs(self) -> list[JobDetails]:
        """Return the jobs that were submitted to the cluster, newest first."""
        with self._said_plainly():
            submitted = [job for job in self.client.list_jobs() if job.submission_id]
        return sorted(submitted, key=lambda job: job.start_time or 0, reverse=True)

    def logs(self, job_id: str) -> str:
        """Return all that the job has said."""
        self.find(job_id)
        with self._said_plainly():
            return str(self.client.get_job_logs(job_id))

    def stop(self, job_id: str) -> bool:
        """Ask the job to end; False if it has ended already."""
        self.find(job_id)
        with self._said_plainly():
            return bool(self.client.stop_job(job_id))

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        """Raise one line for whatever Ray's client raises, which may be a page."""
        try:
            yield
        except OuterloopError:
            raise
        except AuthenticationError:
            raise self._wants_token() from None
        except (OSError, RuntimeError, ValueError) as error:
            found = STATUS_CODE.search(str(error))
            if found and int(found[1]) in UNAUTHENTICATED:
                raise self._wants_token() from None
            # The server's answer to what it could not do is its Python trace; the end says why.
            said = found[2].strip().rstrip(".").splitlines()[-1:] if found else []
            reason = said[0] if said else first_line(error)
            raise RunFailedError(f"the cluster at {self.address}: {redact(reason)}") from None

    def _wants_token(self) -> BadInputError:
        return BadInputError(f"the cluster at {self.address} wants a token: {TOKEN_ADVICE}")


def _checked(address: str) -> str:
    shown = redact(address)
    if not address:
        raise BadInputError(f"--address: {EXPECTED} (or set {ADDRESS_VARIABLE})")
    if not address.startswith(("http://", "https://")):
        raise BadInputError(f"--address '{shown}': {EXPECTED}")
    if holds_password(address):
        raise BadInputError(
            f"--address '{shown}': holds a password, which would be shown; use a token"
        )
    return address.rstrip("/")


def _version_at(address: str) -> str:
    """Return the version of Ray that answers; empty if only who has a token may know it.

    Ray's own client would wait without end for a server that takes a connection and says nothing.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_TIMEOUT_S) as answer:
            return str(json.loads(answer.read(1 << 16))["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in UNAUTHENTICATED:
            return ""
        reason = f"HTTP status {error.code}"
    except (LookupError, TypeError, ValueError):
        reason = "what answers is no Ray"
    except OSError as error:
        reason = first_line(getattr(error, "reason", None) or error)
    raise BadInputError(f"--address '{address}': no job server answers there: {reason}; {EXPECTED}")


def _check_version(address: str, theirs: str) -> None:
    """Raise BadInputError if the cluster's Ray is not ours, up to the last part."""
    ours = ray.__version__
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        raise BadInputError(
            f"the cluster at {address} has Ray {theirs}, and here is Ray {ours}: install the same "
            f"here (pip install 'ray[default]=={theirs}'), or there"
        )


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
