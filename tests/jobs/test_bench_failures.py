"""The benches of failures on small runs: what they do is done, and what they say is there."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from jobs import cli
from jobs.bench import recovery, soak
from jobs.bench.ground import MARK
from tests.processes import wait_until

TINY = (
    "data.num_train_tasks=4",
    "task.num_ways=3",
    "task.batch_size=2",
    "model.num_filters=4",
    "meta.batch_size=4",
)


@pytest.mark.ray
def test_recovery_is_measured_from_a_death_to_the_task_running_again():
    figures = recovery.run(1, None, (*TINY, "inner.num_steps=100"))
    assert figures["deaths"] == 1
    assert 0 < figures["recovery_s_median"] == figures["recovery_s_max"] < 60
    assert 0 < figures["checkpoint_share"] < 1
    assert 0 < figures["inner_checkpoint_share"] < 1


@pytest.mark.ray
def test_a_soak_counts_tasks_memory_and_handles_of_every_process(monkeypatch):
    monkeypatch.setattr(soak, "SAMPLE_EVERY_S", 0.2)
    figures = soak.run(0.05, None, (*TINY, "inner.num_steps=10"))
    assert figures["tasks"] > 0
    names = {"driver", "aggregator 0", "worker 0", "worker 1"}
    assert figures["memory_growth"].keys() == figures["handles_last"].keys() == names
    assert figures["tasks_per_s"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_under_chaos_ends_as_a_quiet_one():
    command = [sys.executable, "-m", "jobs.cli", "--json", "bench", "chaos", "--faults", "4"]
    done = subprocess.run(
        command, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, said
    assert said["bitwise_equal"]
    assert said["verify_ok"]
    assert said["num_faults"] == 4


@pytest.mark.parametrize("bench", ["recovery", "soak", "chaos", "control-plane", "pipeline"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("foo=1", "override foo=1: unknown key (known: agent, "),
        ("foo", "override foo: expected key=value"),
        ("meta.steps=abc", "override meta.steps=abc: expected a whole number"),
        ("meta.stepz=3", "did you mean"),
    ],
)
def test_a_wrong_override_is_refused_before_anything_is_started(bench, override, said, capsys):
    before = psutil.Process().children()  # servers of other tests
    assert cli.run(["bench", bench, override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert psutil.Process().children() == before


@pytest.mark.parametrize("bench", ["recovery", "soak", "chaos"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("workers.count=0", "is of worker processes, and this asks for none; give at least 1"),
        ("workers.address=host:6379", "is of a Ray that it starts on this machine; leave the"),
    ],
)
def test_a_bench_of_processes_needs_some_here(bench, override, said, capsys):
    assert cli.run(["bench", bench, override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {override}: bench {bench} {said}")


def test_chaos_of_no_steps_would_never_end_and_is_refused(capsys):
    assert cli.run(["bench", "chaos", "meta.steps=0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: meta.num_steps=0: a run that is over at once meets no fault")


def test_a_worker_that_could_not_be_killed_in_the_middle_is_refused(capsys):
    assert cli.run(["bench", "recovery", "inner.num_steps=20"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: inner.segment_steps=20: a worker is killed between two segments")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("soak", "--minutes", "inf"), "'--minutes'"),
        (("soak", "--minutes", "nan"), "'--minutes'"),
        (("soak", "--minutes", "0"), "'--minutes'"),
        (("soak", "--minutes", "-1"), "'--minutes'"),
        (("recovery", "--deaths", "0"), "'--deaths'"),
        (("chaos", "--faults", "0"), "'--faults'"),
        (("chaos", "--faults", "inf"), "'--faults'"),
        (("chaos", "--nodes", "3"), "'--nodes'"),
        (("chaos", "--seed", "-1"), "'--seed'"),
        (("inner-loop", "--device", "tpu"), "device 'tpu': expected auto, cpu or cuda"),
        (("atari", "--game", "no-such-game"), "no-such-game"),
    ],
)
def test_options_out_of_bounds_are_refused_in_one_line(words, said, capsys):
    assert cli.run(["bench", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("option", ["watch x --game pong --seconds", "compare x y --target-return"])
def test_no_number_is_no_bound(option, capsys):
    assert cli.run([*option.split(), "nan"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{option.split()[-1]}'" in line


@contextmanager
def started_bench(folder, *words):
    """Give a bench in a process of its own, whose temporary files are in `folder`."""
    places = {"TMPDIR": str(folder), "RAY_TMPDIR": tempfile.gettempdir()}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "--json", "bench", *words, *TINY],
        env=os.environ | places,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def named(title, folder):
    """Our actors of that title that some bench in `folder`, or a child of it, has started."""
    for process in psutil.process_iter():
        with_title = ps_line(process).startswith(title)
        if with_title and str(folder) in environment(process).get("TMPDIR", ""):
            yield process


def ps_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def environment(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


def session_of(process):
    """The processes of the session of that one."""
    session = os.getsid(process.pid)
    found = []
    for one in psutil.process_iter():
        try:
            if os.getsid(one.pid) == session:
                found.append(one)
        except ProcessLookupError:
            pass
    return found


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "bench"),
    [
        (signal.SIGKILL, "chaos"),
        (signal.SIGINT, "chaos"),
        (signal.SIGTERM, "recovery"),
        (signal.SIGHUP, "soak"),
    ],
)
@pytest.mark.timeout(400)
def test_a_bench_that_is_ended_leaves_nothing_behind(tmp_path, number, bench):
    with started_bench(tmp_path, bench) as process:
        wait_until(lambda: any(named("ray::TaskServer.run", tmp_path)), 120)
        started = session_of(next(named("ray::TaskServer.run", tmp_path)))
        assert len(started) > 5
        process.send_signal(number)
        output, errors = process.communicate(timeout=150)
    wait_until(lambda: not any(MARK in environment(one) for one in started), 60)
    _, alive = psutil.wait_procs(started, 60)
    assert not alive
    wait_until(lambda: not any(tmp_path.glob("outerloop-*")))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        return
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith(f"error: interrupted by {number.name}")
    assert json.loads(output.splitlines()[-1])["exit_code"] == 130
