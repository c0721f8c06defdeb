"""Lines of tasks under way, on a terminal of any width and elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import termios
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from jobs.progress import LiveBars, PlainLines, live_bars
from jobs.task_lines import TaskLines
from pipeline.progress import BatchProgress, OuterProgress, TaskProgress, batch_lines
from tests.processes import ROOT

PONG = TaskProgress(
    name="pong",
    place=0,
    steps=12_400,
    num_steps=31_250,
    env_steps=1_984_000,
    episode_return=-12.3,
    loss=0.0213,
    steps_per_s=3.9,
    eta_s=4800.0,
    begun=0.0,
    heard=0.0,
    overdue=60.0,
)
DIGITS = replace(PONG, name="CartPole-v1 #train-3", place=1, steps=50, env_steps=None)
DIGITS = replace(DIGITS, episode_return=None, eta_s=None)
BATCH = BatchProgress("outer step 3/40", (PONG, DIGITS), 198_400, 500_000, 45_240.0)
STEP = OuterProgress(3, 10, 2.5, 0.75, 1.25, 140.0, 4, 75.0, 0, 0)


def of(count, **changes):
    tasks = tuple(replace(PONG, name=f"game {n}", place=n, **changes) for n in range(count))
    return replace(BATCH, tasks=tasks)


def at(width, now=0.0):
    lines = TaskLines(BATCH, room=20).texts(width, now)
    assert all(cell_len(line) <= width for line in lines)
    return lines


def test_a_wide_terminal_shows_all_there_is():
    assert at(100) == [
        "outer step 3/40  ETA 12:34:00  198,400/500,000 inner steps",
        "  pong                  12,400/31,250  ETA 1:20:00  return -12.3  2.0M env steps  "
        "loss 0.0213",
        "  CartPole-v1 #train-3      50/31,250  ETA ?        loss 0.0213",
    ]


def test_a_narrow_terminal_drops_figures_from_the_right_then_cuts_names():
    assert at(77)[1:] == [
        "  pong                  12,400/31,250  ETA 1:20:00  return -12.3",
        "  CartPole-v1 #train-3      50/31,250  ETA ?        loss 0.0213",
    ]
    assert at(42) == [
        "outer step 3/40  ETA 12:34:00",
        "  pong          12,400/31,250  ETA 1:20:00",
        "  …v1 #train-3      50/31,250  ETA ?",
    ]
    assert at(37)[1:] == [
        "  pong     12,400/31,250  ETA 1:20:00",
        "  …rain-3      50/31,250  ETA ?",
    ]
    assert at(24)[1:] == ["  pong    12,400/31,250", "  …ain-3      50/31,250"]


@pytest.mark.parametrize("width", range(24, 120, 7))
def test_no_line_is_wider_than_the_terminal(width):
    at(width, now=1000.0)


def test_a_task_without_news_says_so():
    assert "no news" not in " ".join(at(100, now=60.0))
    assert "ETA 1:20:00  no news for 2:10  return -12.3" in at(100, now=130.0)[1]
    assert "no news for 2:10" in batch_lines(BATCH, 130.0)[1]


@pytest.mark.parametrize(
    ("env_steps", "said"), [(340, "340"), (12_400, "12.4k"), (2_000_000, "2.0M"), (3e9, "3.0G")]
)
def test_env_steps_are_said_in_few_digits(env_steps, said):
    batch = replace(BATCH, tasks=(replace(PONG, env_steps=env_steps),))
    assert f"  {said} env steps" in batch_lines(batch, 0.0)[1]


@pytest.mark.parametrize(("room", "shown"), [(20, 8), (7, 5), (0, 1)])
def test_as_many_tasks_are_shown_as_there_is_room_for(room, shown):
    lines = TaskLines(of(12), room)
    texts = lines.texts(80, 0.0)
    assert len(texts) == lines.height == shown + 2
    assert texts[-1] == f"  … and {12 - shown} more"


def test_plain_lines_are_printed_once_in_a_while():
    console = Console(file=io.StringIO(), width=160)
    progress = PlainLines(console, tasks_every_s=1000.0)
    for _ in range(5):
        progress.tasks(replace(BATCH, tasks=()))
        progress.tasks(BATCH)
        progress.tasks(replace(BATCH, tasks=()))
    head, pong, digits = console.file.getvalue().splitlines()
    assert head == "outer step 3/40  ETA 12:34:00  198,400/500,000 inner steps"
    assert re.match(r"  pong                  12,400/31,250  ETA 1:20:00  .*return -12.3", pong)
    assert digits.startswith("  CartPole-v1 #train-3  50/31,250")


def test_plain_lines_of_many_tasks_are_few():
    console = Console(file=io.StringIO(), width=160)
    PlainLines(console).tasks(of(12))
    assert len(console.file.getvalue().splitlines()) == 1 + 8 + 1


def test_what_a_signal_handler_says_leaves_room_for_the_lines(capfd):
    live = LiveBars(live_bars(Console(file=io.StringIO(), force_terminal=True, width=160)))
    live.outer_step(STEP)
    live.tasks(BATCH)
    live.at_once("stopping")
    assert capfd.readouterr().out == "\r\x1b[Kstopping" + "\n" * 4


DRAWS = """
import sys
from rich.console import Console
from jobs.progress import shown
from tests.jobs.test_task_lines import BATCH, STEP, fresh, of
with shown(Console()) as progress:
    progress.tasks(fresh(of(12)))
    progress.message("before the first outer step")
    progress.outer_step(STEP)
    progress.tasks(fresh(of(12)))
    progress.phase("meta-test", 4)
    progress.message("a message")
    progress.tasks(fresh(BATCH if sys.argv[1] == "some" else of(0)))
"""


def fresh(batch):
    """The batch as if there was news right now."""
    now = time.monotonic()
    tasks = tuple(replace(task, heard=now, overdue=now + 60.0) for task in batch.tasks)
    return replace(batch, tasks=tasks)


def screen(output):
    """What a terminal shows after `output`, of whose control codes it knows those used here."""
    lines, row, column = [""], 0, 0
    position = 0
    for match in re.finditer(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)", output):
        number, code, end, text = match.groups()
        assert match.start() == position, output[position : match.start()]
        position = match.end()
        if code == "A":
            row -= int(number or 1)
        elif code == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif end == "\r":
            column = 0
        elif end == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


def on_a_terminal(width, *arguments):
    """What a real pseudo-terminal of `width` columns shows after DRAWS has ended."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    # Tests that run side by side are told a width that would stand above the terminal's own.
    told = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", DRAWS, *arguments],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**told, "TERM": "xterm", "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # Linux raises it when the other end is closed
        while read := os.read(ours, 65536):
            output += read
    os.close(ours)
    assert process.wait(timeout=60) == 0, output.decode()
    return screen(output.decode())


@pytest.mark.parametrize("width", [40, 80])
def test_lines_stand_beneath_the_bars_and_over_nothing(width):
    lines = [line for line in on_a_terminal(width, "some") if line]
    assert all(len(line) <= width - 3 for line in lines), lines
    said, message, training, testing, whole, pong, digits = lines
    assert (said, message) == ("before the first outer step", "a message")
    assert re.match(r"meta-training [━╸╺]+ 3/10 ETA 1:15", training)
    assert re.match(r"meta-test +━+ +0/4 +ETA \?", testing)
    assert whole.startswith("outer step 3/40  ETA 12:34:00")
    assert re.match(r"  pong +12,400/31,250", pong)
    assert re.match(r"  (CartPole-v1 #train-3|…rain-3) +50/31,250", digits)


def test_lines_of_tasks_that_ended_are_gone():
    lines = [line for line in on_a_terminal(80, "none") if line]
    assert [line.split()[0] for line in lines[-2:]] == ["meta-training", "meta-test"]
    assert not any("game" in line or "outer step" in line for line in lines[1:])
