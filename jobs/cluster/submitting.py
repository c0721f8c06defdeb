"""`outerloop submit`: a run as a job on a cluster, and `outerloop jobs`: what becomes of it."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs import catalog
from jobs.cluster.client import JobDetails, JobServer, JobStatus
from jobs.cluster.following import MLFLOW_LINE, JobLog, follow
from jobs.cluster.shipping import EXPERIMENT, shipment
from jobs.tables import rows_table
from pipeline.config import Experiment
from pipeline.config_sections import JobConfig
from pipeline.delivery import is_http
from pipeline.errors import BadInputError, InterruptedRunError, RunFailedError
from pipeline.interrupt import ending_as_ctrl_c
from pipeline.origin import COMMIT_KEY, PAGE_KEY, git_commit
from pipeline.redaction import holds_password
from pipeline.runs import RUN_ID, check_run_id, new_run_id

Result = dict[str, Any]

RUN_KEY, EXPERIMENT_KEY = "outerloop.run_id", "outerloop.experiment"
VARIABLE = re.compile(r"[A-Za-z_]\w*")
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|API_KEY|CREDENTIAL", re.I)
TRACKING = "MLFLOW_TRACKING_URI"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"  # Ray's own; three seconds unless it is told otherwise
LOOK_EVERY_S = 0.5


def submit(
    console: Console,
    words: Sequence[str],
    resume: str | None,
    address: str | None,
    job_id: str | None,
    environment: Sequence[str],
    include: Sequence[Path],
    python: str,
    is_detached: bool,
) -> Result:
    """Submit `train WORDS…`, or `train --resume RUN WORDS…`, and follow it to its end."""
    given = _variables(environment)
    experiment = (
        None if resume is not None else _for_a_cluster(catalog.load(words[0], [*words[1:]]))
    )
    server = JobServer(address)
    others: list[JobDetails] = []
    if experiment is not None:
        run_id = new_run_id(experiment.name)
        config, metadata = experiment.job, {EXPERIMENT_KEY: experiment.name}
        command = [EXPERIMENT, "--run-id", run_id]
    else:
        run_id = str(resume).rstrip("/").rpartition("/")[2]
        check_run_id(run_id)
        others = server.jobs()
        before = _last_of(run_id, others)
        config, metadata = _job_config(words), dict(before.metadata or {}) if before else {}
        given = _variables_of(before) | given
        command = ["--resume", str(resume), *words]
        if not any(word.startswith("workers.address=") for word in words):
            command.append("workers.address=auto")
    job_id = _job_id(job_id, run_id, others)
    given.setdefault(STOP_WAIT, str(config.stop_wait_s))
    entrypoint = [python, "-m", "jobs.cluster.entry", str(config.max_retries), *command]
    with shipment(experiment, include) as folder:
        server.submit(
            job_id,
            entrypoint=shlex.join(entrypoint),
            runtime_env={"working_dir": str(folder), "env_vars": given},
            metadata=metadata
            | {RUN_KEY: run_id, COMMIT_KEY: git_commit(), PAGE_KEY: server.page(job_id)},
            entrypoint_num_cpus=config.num_cpus or None,
        )
    console.print(f"job: {job_id}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"page: {server.page(job_id)}", soft_wrap=True, markup=False, highlight=False)
    said: Result = {"job_id": job_id, "run_id": run_id, "address": server.address}
    if is_detached:
        return said | {"status": "PENDING"}
    return said | _followed(console, server, job_id)


def logs(console: Console, address: str | None, job_id: str, is_followed: bool) -> Result:
    """Print what the job has said, and go on with it if `is_followed`."""
    server = JobServer(address)
    job = server.find(job_id)
    if is_followed:
        return {"job_id": job_id} | _followed(console, server, job_id)
    log = JobLog(console)
    log.take(server.logs(job_id))
    log.end()
    return {"job_id": job_id, "status": _status(job), "mlflow": log.mlflow}


def list_jobs(console: Console, address: str | None) -> Result:
    """Print a table of the jobs, newest first."""
    server = JobServer(address)
    rows = [_about(job) for job in server.jobs()]
    columns = ("job_id", "run_id", "experiment", "status", "started", "lasts")
    cells = [tuple(str(row[column]) for column in columns) for row in rows]
    console.print(rows_table(f"Jobs at {server.address}", columns, cells))
    return {"jobs": rows}


def status(console: Console, address: str | None, job_id: str) -> Result:
    """Print what is known of the job, and where its run is."""
    server = JobServer(address)
    about = _about(server.find(job_id))
    about["page"] = server.page(job_id)
    if found := MLFLOW_LINE.findall(server.logs(job_id)):
        about["mlflow"] = found[-1]
    for key, value in about.items():
        if value != "":
            console.print(f"{key}: {value}", soft_wrap=True, markup=False, highlight=False)
    return about


def stop(console: Console, address: str | None, job_id: str) -> Result:
    """Ask the job to stop with a checkpoint, and wait until it has."""
    server = JobServer(address)
    wait_s = int(_variables_of(server.find(job_id)).get(STOP_WAIT, 3)) + 30
    if not server.stop(job_id):
        raise BadInputError(
            f"job '{job_id}' has ended already ({_status(server.find(job_id))}); "
            f"see: outerloop jobs status {job_id}"
        )
    with console.status("waiting for its checkpoint…"):
        limit = time.monotonic() + wait_s
        while not JobStatus(server.find(job_id).status).is_terminal():
            if time.monotonic() > limit:
                raise RunFailedError(f"job '{job_id}' has not ended within {wait_s} s")
            time.sleep(LOOK_EVERY_S)
    about = _about(server.find(job_id))
    console.print(f"{job_id}: {about['status']}", soft_wrap=True, markup=False)
    if about["run_id"]:
        line = f"to go on: outerloop submit --resume {about['run_id']} --address {server.address}"
        console.print(line, soft_wrap=True, markup=False)
    return about


def _for_a_cluster(experiment: Experiment) -> Experiment:
    """Return the experiment as the driver on the cluster is to have it."""
    if experiment.workers.count and not experiment.workers.address:
        workers = experiment.workers.model_copy(update={"address": "auto"})
        experiment = experiment.model_copy(update={"workers": workers})
    return experiment


def _variables(texts: Sequence[str]) -> dict[str, str]:
    """Return the environment that is given, with this one's MLflow server unless it says another.

    BadInputError for one that holds a password: it would stand on the cluster's dashboard.
    """
    given: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not VARIABLE.fullmatch(key):
            raise BadInputError(f"--env '{key:.100}': expected NAME=VALUE")
        given[key] = value
    here = os.environ.get(TRACKING, "")
    if TRACKING not in given and is_http(here):
        given[TRACKING] = here
    for key, value in given.items():
        if SECRET.search(key) or ("://" in value and holds_password(value)):
            raise BadInputError(
                f"{key}: looks like a secret, which every user of the cluster would see with the "
                "job: set it on the cluster's nodes (for MLflow: MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD)"
            )
    return given


def _variables_of(job: JobDetails | None) -> dict[str, str]:
    """Return the environment that a job was submitted with."""
    if job is None:
        return {}
    return {str(k): str(v) for k, v in ((job.runtime_env or {}).get("env_vars") or {}).items()}


def _job_config(words: Sequence[str]) -> JobConfig:
    """Return the section `job` as the overrides of a resumed run change it."""
    given = dict(word.split("=", 1) for word in words if word.startswith("job.") and "=" in word)
    try:
        return JobConfig(**{key.removeprefix("job."): value for key, value in given.items()})  # type: ignore[arg-type]
    except ValueError:
        raise BadInputError(
            f"override {' '.join(f'{k}={v}' for k, v in given.items()):.200}: expected "
            "job.max_retries=N, job.num_cpus=X or job.stop_wait_s=N"
        ) from None


def _job_id(given: str | None, run_id: str, others: Sequence[JobDetails]) -> str:
    """Return the job's name: as given, the run's, or one more of the run's."""
    if given is not None:
        if not RUN_ID.fullmatch(given):
            raise BadInputError(
                f"--job-id '{given:.100}': expected at most 200 letters, digits and any of "
                "_ . = , + -, a letter, digit or _ first"
            )
        return given
    taken, number, job_id = {job.submission_id for job in others}, 1, run_id
    while job_id in taken:
        number += 1
        job_id = f"{run_id}-{number}"
    return job_id


def _last_of(run_id: str, jobs: Sequence[JobDetails]) -> JobDetails | None:
    """Return the newest job of the run; BadInputError if it has not ended."""
    own = [job for job in jobs if (job.metadata or {}).get(RUN_KEY) == run_id]
    if own and not JobStatus(own[0].status).is_terminal():
        raise BadInputError(
            f"run {run_id} is at work in job {own[0].submission_id}; follow it: "
            f"outerloop jobs logs {own[0].submission_id} --follow"
        )
    return own[0] if own else None


def _followed(console: Console, server: JobServer, job_id: str) -> Result:
    """Follow the job; return its result, or raise as it ended."""
    try:
        with ending_as_ctrl_c():
            log = follow(server, job_id, console)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"job {job_id} goes on; follow it again: outerloop jobs logs {job_id} --follow; "
            f"end it with a checkpoint: outerloop jobs stop {job_id}"
        ) from None
    job = server.find(job_id)
    if job.status == JobStatus.SUCCEEDED:
        return {"status": _status(job), "mlflow": log.mlflow} | log.result
    if job.status == JobStatus.STOPPED:
        raise InterruptedRunError(f"job {job_id} was stopped")
    reason = log.result.get("error") or _reason(job)
    endings = {2: BadInputError, 130: InterruptedRunError}
    ending = endings.get(job.driver_exit_code or 1, RunFailedError)
    raise ending(f"job {job_id}: {reason}")


def _reason(job: JobDetails) -> str:
    said = (job.message or "").strip().splitlines() or ["it failed"]
    return said[0]


def _status(job: JobDetails) -> str:
    return str(JobStatus(job.status).value)


def _about(job: JobDetails) -> Result:
    metadata = job.metadata or {}
    begun, ended = (None if at is None else at / 1000 for at in (job.start_time, job.end_time))
    until = time.time() if ended is None else ended
    is_failed = job.status == JobStatus.FAILED
    return {
        "job_id": str(job.submission_id),
        "run_id": metadata.get(RUN_KEY, ""),
        "experiment": metadata.get(EXPERIMENT_KEY, ""),
        "status": _status(job),
        "started": "" if begun is None else f"{datetime.fromtimestamp(begun):%Y-%m-%d %H:%M:%S}",
        "lasts": "" if begun is None else _span(until - begun),
        "reason": _reason(job) if is_failed else "",
    }


def _span(seconds: float) -> str:
    minutes, left = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}"
