"""`outerloop compare`, from files to table, plot and JSON."""

import json
from pathlib import Path

import pytest

from jobs import cli
from tests.pipeline.evaluations_for_tests import run_of

BUDGET = {"meta.num_steps": 3, "meta.batch_size": 8, "inner.num_steps": 30}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def runs(home):
    """The ids of two meta-tested runs of Leap that differ in a setting, and one of Reptile."""
    evaluations = [
        run_of("leap", "leap-a", learner=BUDGET | {"outer.lr": 0.1}),
        run_of("leap", "leap-b", learner=BUDGET | {"outer.lr": 0.5}),
        run_of("reptile", "reptile-c", learner=BUDGET | {"meta.num_steps": 5}),
    ]
    for evaluation in evaluations:
        evaluation.to_parquet(home / evaluation.run_id / "evaluation")
        (home / evaluation.run_id / "config.yaml").write_text("seed: 0\n")
    return [evaluation.run_id for evaluation in evaluations]


def test_methods_and_what_differs_are_readable_at_80_columns(runs, capsys):
    assert cli.run(["compare", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 and "plot:" not in line] == []
    for method in ("leap outer.lr=0.1", "leap outer.lr=0.5", "reptile", "scratch"):
        assert sum(f"│ {method} " in line for line in lines) == 2  # figures, meta-training
    assert "leap outer.lr=0.5: leap-b" in lines
    assert any(line.startswith("Budgets differ: ") for line in lines)


def test_json_names_budgets_and_runs(runs, capsys):
    assert cli.run(["compare", *runs, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["runs"] == runs
    assert list(result["methods"]) == list(result["training"])
    assert result["training"]["reptile"]["inner_steps"] == 5 * 8 * 30
    assert result["training"]["reptile"]["run_ids"] == ["reptile-c"]
    assert len(result["differences"]) == 1


def test_comparisons_of_other_runs_do_not_replace_each_others_plot(runs, home):
    for words in (runs, runs[:2], runs[:2]):
        assert cli.run(["compare", *words]) == 0
    assert len(list(home.glob("compare-*.png"))) == 2


def test_run_named_twice_counts_once(runs, home, capsys):
    assert cli.run(["compare", runs[0], str(home / runs[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"] == runs[:1]


def test_unknown_kind_of_plot_is_refused_before_anything_is_drawn(runs, home, capsys):
    before = sorted(home.iterdir())
    assert cli.run(["compare", *runs, "--plot", str(home / "plot.jpg")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "plot.jpg: expected a plot's name to end in one of .png, .pdf, .svg" in err
    assert sorted(home.iterdir()) == before


def test_plot_is_what_its_name_says(runs, home):
    assert cli.run(["compare", *runs, "--plot", str(home / "x.pdf")]) == 0
    assert (home / "x.pdf").read_bytes().startswith(b"%PDF")


def test_budget_is_what_was_trained_not_what_was_planned(home, capsys):
    """A run that was interrupted has fewer outer steps than its configuration says."""
    tiny = "workers.count=0 meta.steps=2 meta.batch_size=2 inner.num_steps=3 model.num_filters=4"
    assert cli.run(["train", "quickstart", *tiny.split(), "evaluation.num_steps=2", "--json"]) == 0
    run = json.loads(capsys.readouterr().out.splitlines()[-1])
    config = Path(run["run_dir"], "config.yaml")
    text = config.read_text()
    assert "meta:\n  num_steps: 2\n" in text
    config.write_text(text.replace("meta:\n  num_steps: 2\n", "meta:\n  num_steps: 1000\n"))
    assert cli.run(["evaluate", run["run_id"]]) == 0
    capsys.readouterr()
    assert cli.run(["compare", run["run_id"], "--json"]) == 0
    training = json.loads(capsys.readouterr().out.splitlines()[-1])["training"]["leap"]
    assert (training["outer_steps"], training["inner_steps"]) == (2, 2 * 2 * 3)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("absent/c.png", "there is no folder {home}/absent"),
        ("/proc/c.png", "a plot cannot be written to /proc"),
        ("folder.png", "is a folder"),
        ("c.gif", "expected a plot's name to end in one of .png"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_before_the_table(runs, home, capsys, place, said):
    (home / "folder.png").mkdir()
    assert cli.run(["compare", *runs, "--plot", str(home / place)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {home / place}: {said.format(home=home)}")
    assert err.count("\n") == 1
    assert not (home / "absent").exists()
