"""Tables of a meta-test in environments, on a terminal of 80 columns."""

import json
from dataclasses import replace

import numpy as np

from jobs import cli
from jobs.return_tables import games_table, target_table
from tests.jobs.test_tables import printed
from tests.pipeline.evaluations_for_tests import in_environments


def cells(table):
    return [" ".join(line.replace("│", " ").split()) for line in printed(table)]


def test_games_have_a_row_for_each_method_with_mean_and_deviation():
    games = in_environments("atari", {"leap": 1200.0, "scratch": -9.0}, repeats=2)
    rows = cells(games_table(games))
    assert "a leap 1,205.0 ± 7.1 2" in rows
    assert "b scratch -3.0 ± 7.1 2" in rows
    assert games_table(in_environments("control", {"leap": 1.0})) is None


def test_a_game_is_normalised_though_another_has_no_published_score():
    games = in_environments("atari", {"leap": 9.0})
    curves = [
        replace(one, metrics=one.metrics | {"human_normalized": 0.25}) if one.task == "b" else one
        for one in games.curves
    ]
    rows = cells(games_table(replace(games, curves=tuple(curves))))
    assert "a leap 9.0 - 1" in rows
    assert "b leap 10.0 25.0 1" in rows


def test_target_table_says_who_got_there_and_after_how_many_env_steps():
    judged = in_environments("control", {"leap": 500.0, "scratch": 60.0}, target_return=195.0)
    rows = cells(target_table(judged))
    assert rows[0] == "Reaching a return of 195"
    assert "leap 80 ± 0 * 100.0 ± 0.0 * 2" in rows
    assert "scratch 160 ± 0 0.0 ± 0.0 2" in rows
    assert target_table(replace(judged, target_return=None)) is None


def without_ends(judged, method):
    """The meta-test, as if no episode had ended in the adaptations by `method`."""
    none = np.full(2, np.nan, np.float32)
    curves = [replace(one, returns=none) if one.method == method else one for one in judged.curves]
    return replace(judged, curves=tuple(curves))


def test_where_no_episode_ended_the_target_table_says_so_and_marks_no_best():
    judged = in_environments("control", {"leap": 60.0, "scratch": 500.0}, target_return=195.0)
    rows = cells(target_table(without_ends(judged, "leap")))
    assert "leap no episode ended - 2" in rows
    assert "scratch 80 ± 0 100.0 ± 0.0 2" in rows
    assert "Where no episode ended nobody knows: adapt for more inner steps." in rows
    assert not any("nobody knows" in row for row in cells(target_table(judged)))
    none = without_ends(without_ends(judged, "leap"), "scratch")
    assert "scratch no episode ended - 2" in cells(target_table(none))


def test_where_no_method_reached_the_target_none_is_the_best():
    rows = cells(target_table(in_environments("control", {"a": 1.0, "b": 2.0}, target_return=195)))
    assert "a 160 ± 0 0.0 ± 0.0 2" in rows
    assert "b 160 ± 0 0.0 ± 0.0 2" in rows


def test_a_game_of_which_no_episode_ended_says_so_by_game():
    games = in_environments("atari", {"leap": 500.0, "scratch": 500.0}, target_return=195.0)
    rows = cells(games_table(without_ends(games, "scratch")))
    assert "a leap 500.0 80 100.0 1" in rows
    assert any(row.startswith("a scratch 500.0 no episode ended - 1") for row in rows)


def test_games_show_the_target_too_and_a_diverged_adaptation_as_not_there():
    games = in_environments("atari", {"leap": 500.0}, target_return=195.0)
    first, second = games.curves
    diverged = replace(first, losses=np.array([0, np.nan], np.float32))
    rows = cells(games_table(replace(games, curves=(diverged, second))))
    assert "a leap - 160 0.0 1" in rows
    assert "b leap 501.0 80 100.0 1" in rows


def test_compare_judges_runs_of_before_by_a_target_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    for seed in (0, 1):
        run = in_environments("control", {"leap": 500.0, "scratch": 60.0}, seed=seed)
        run.to_parquet(tmp_path / run.run_id / "evaluation")
        (tmp_path / run.run_id / "config.yaml").write_text("seed: 0\n")
    words = ["compare", "run-0", "run-1"]
    assert cli.run([*words, "--json"]) == 0
    assert "reached" not in capsys.readouterr().out
    assert cli.run([*words, "--target-return", "195", "--json"]) == 0
    methods = json.loads(capsys.readouterr().out.splitlines()[-1])["methods"]
    assert list(methods) == ["leap", "scratch"]  # seeds of one experiment are one row
    assert [methods[name]["reached"]["mean"] for name in methods] == [1, 0]
    assert methods["scratch"]["env_steps_to_target"]["seeds"] == 2


def test_json_of_games_has_their_figures_by_game(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    run = in_environments("atari", {"leap": 500.0}, repeats=2)
    run.to_parquet(tmp_path / run.run_id / "evaluation")
    (tmp_path / run.run_id / "config.yaml").write_text("seed: 0\n")
    assert cli.run(["compare", "run-0", "--json"]) == 0
    games = json.loads(capsys.readouterr().out.splitlines()[-1])["games"]
    assert games["b"]["leap"]["return"]["mean"] == 506
    assert games["b"]["leap"]["return"]["adaptations"] == 2
