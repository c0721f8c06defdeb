"""What a long command shows, on a terminal and elsewhere."""

import io

from rich.console import Console
from rich.progress import Progress as Bars

from jobs.progress import LiveBars, PlainLines, eta, figures, shown
from pipeline.progress import OuterProgress

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


def drawn(terminal, silent=False):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    with shown(console, silent) as progress:
        progress.outer_step(STEP)
        progress.message("a [bold]plain[/] message")
        progress.phase("meta-test", 2)
        progress.advance()
        progress.advance()
    return console.file.getvalue()


def test_every_way_of_showing_has_the_same_figures():
    for text in (drawn(terminal=True), drawn(terminal=False)):
        for part in ("2.500 → 0.750", "1.25", "140 inner steps/s", "4 tasks", "ETA 1:15"):
            assert part in text
        assert "3/10" in text
        assert "meta-test" in text


def test_the_last_part_alone_has_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with Bars(console=console) as bars:
        live = LiveBars(bars)
        live.outer_step(STEP)
        for number in range(100):
            live.phase(f"meta-test {number}", 2)
            live.advance()
        assert [bar.description for bar in bars.tasks] == ["meta-training", "meta-test 99"]
        assert bars.tasks[1].completed == 1


def test_silence_is_broken_by_messages_alone():
    assert drawn(terminal=False, silent=True) == "a [bold]plain[/] message\n"


def test_faults_are_shown_once_there_are_some():
    assert "retries" not in figures(STEP)
    assert "2 retries" in figures(OuterProgress(3, 10, 1, 1, 1, 1, 1, None, retries=2, dropped=0))


def test_plain_lines_are_few_and_the_last_is_among_them():
    console = Console(file=io.StringIO(), width=160)
    progress = PlainLines(console, every_s=1000.0)
    for step in range(1, 11):
        progress.outer_step(OuterProgress(step, 10, 1, 1, 1, 1, 1, 1.0, 0, 0))
    lines = console.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "10/10"]


def test_time_to_go():
    assert [eta(s) for s in (None, 5, 65, 3725.4)] == ["?", "0:05", "1:05", "1:02:05"]
