"""What a long command shows, on a terminal and elsewhere."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from jobs.progress import LiveBars, PlainLines, live_bars, shown
from pipeline.progress import OuterProgress, eta, figures

STEP = OuterProgress(
    step=3,
    num_steps=10,
    loss_first=2.5,
    loss_last=0.75,
    grad_norm=1.25,
    inner_steps_per_s=140.0,
    tasks_in_flight=4,
    eta_s=75.0,
    retries=0,
    dropped=0,
)


def drawn(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    with shown(console) as progress:
        progress.outer_step(STEP)
        progress.message("a [bold]plain[/] message")
        progress.phase("meta-test", 2)
        progress.advance()
        progress.advance()
    return console.file.getvalue()


def lines_at(width, *tell):
    """The bars as they stand after `tell`, without colours."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    bars = live_bars(console)
    live = LiveBars(bars)
    for told in tell:
        told(live)
    with console.capture() as capture:
        console.print(bars.get_renderable())
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()


def test_every_way_of_showing_has_the_same_figures():
    for text in (drawn(terminal=True), drawn(terminal=False)):
        for part in ("2.500 → 0.750", "1.25", "140 inner steps/s", "4 tasks", "ETA 1:15"):
            assert part in text
        assert "3/10" in text
        assert "meta-test" in text
        assert "a [bold]plain[/] message" in text


LONG = replace(STEP, step=1000, num_steps=1000, eta_s=36_000.0, grad_norm=1.23e-05, retries=12)


@pytest.mark.parametrize("step", [replace(LONG, step=7), LONG], ids=["begun", "ended"])
@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_drops_figures_from_the_right_and_nothing_else(width, step):
    training, testing = lines_at(
        width,
        lambda live: live.outer_step(step),
        lambda live: live.phase("meta-test", 1000),
        lambda live: [live.advance() for _ in range(1000)],
    )
    for line, name, count in (
        (training, "meta-training", f"{step.step}/1000"),
        (testing, "meta-test", "1000/1000"),
    ):
        assert line.startswith(name)
        assert "━" * 16 in line
        assert count in line
        assert re.search(r"ETA \d", line)
        assert "…" not in line
        assert len(line.rstrip()) <= width - 3  # room for the terminal's ^C
    assert ("loss 2.500 → 0.750" in training) == (width == 80)


def test_a_wide_terminal_shows_every_figure():
    (line,) = lines_at(160, lambda live: live.outer_step(LONG))
    assert "  ".join(figures(LONG)) in line


@pytest.mark.parametrize("stderr", [False, True])
def test_what_a_signal_handler_says_stays_above_the_bars(stderr, capfd):
    console = Console(file=io.StringIO(), force_terminal=True, width=160, stderr=stderr)
    live = LiveBars(live_bars(console))
    live.at_once("none yet")
    live.outer_step(STEP)
    live.phase("meta-test", 2)
    live.at_once("two bars")
    said = capfd.readouterr()
    assert (said.err if stderr else said.out) == "\r\x1b[Knone yet\n\r\x1b[Ktwo bars\n\n"
    assert not (said.out if stderr else said.err)


def test_the_last_part_alone_has_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with live_bars(console) as bars:
        live = LiveBars(bars)
        live.outer_step(STEP)
        for number in range(100):
            live.phase(f"meta-test {number}", 2)
            live.advance()
        assert [bar.description for bar in bars.tasks] == ["meta-training", "meta-test 99"]
        assert bars.tasks[1].completed == 1


def test_faults_are_shown_once_there_are_some():
    assert "retries" not in " ".join(figures(STEP))
    assert "2 retries" in figures(replace(STEP, retries=2))


def test_plain_lines_are_few_and_the_last_is_among_them():
    console = Console(file=io.StringIO(), width=160)
    progress = PlainLines(console, every_s=1000.0)
    for step in range(1, 11):
        progress.outer_step(replace(STEP, step=step))
    lines = console.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "10/10"]


def test_time_to_go():
    assert [eta(s) for s in (None, 5, 65, 3725.4)] == ["?", "0:05", "1:05", "1:02:05"]


def test_episodes_have_a_loss_of_their_own_and_no_inner_steps():
    said = figures(replace(STEP, of_episodes=True))
    assert said[0] == "loss 0.750"
    assert "140 episodes/s" in said


@pytest.mark.parametrize("last", [{"step": 10}, {"step": 6, "eta_s": 0.0}], ids=["steps", "budget"])
def test_the_last_outer_step_has_a_line_whatever_ended_the_run(last):
    console = Console(file=io.StringIO(), force_terminal=False, width=160)
    progress = PlainLines(console, every_s=1000.0)
    for step in (replace(STEP, step=1), replace(STEP, step=5), replace(STEP, **last)):
        progress.outer_step(step)
    steps = [line.split()[1] for line in console.file.getvalue().splitlines()]
    assert steps == ["1/10", f"{last['step']}/10"]
