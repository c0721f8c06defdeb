"""The metrics page against what runs of every kind log."""

from __future__ import annotations

import json
import re

import pytest
import torch

from pipeline import session
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from tests.docs.pages import page
from tests.pipeline.environments_for_tests import atari, control
from tests.pipeline.episodes_for_tests import tiny_episodes
from tests.pipeline.runs_for_tests import at_home, tiny
from tests.processes import ROOT

LIVE = {"live_every_s": 1e-9, "system_every_s": 1e-9}
SHORT = {"batch_size": 2, "num_steps": 2}


def runs(copies):
    """A tiny experiment of each kind of task, and of what else has metrics of its own."""
    return {
        "alphabets": tiny(meta=SHORT, evaluation={"every": 1}, tracking=LIVE),
        "copies": tiny(meta=SHORT, checkpoint={"every": 1, "copy_to": str(copies)}),
        "async": tiny(meta={**SHORT, "mode": "async", "apply_every": 1}),
        "data sets": tiny(
            task={"kind": "datasets"},
            datasets={"names": ["digits", "glyphs"], "held_out": ["digits"]},
            model={"num_filters": 4},
            meta=SHORT,
        ),
        "episodes": tiny_episodes(meta=SHORT, evaluation={"every": 1}),
        "sinusoids": tiny_episodes(
            algorithm={"name": "maml"},
            model={"encoder": "perceptron"},
            task={"kind": "sinusoids"},
            meta=SHORT,
        ),
        "control": control(
            environments={"num_envs": 2, "unroll": 40, "num_train": 2},
            meta={**SHORT, "num_steps": 1},
            evaluation={"target_return": 5.0},
            tracking=LIVE,
        ),
        "atari": atari(meta={**SHORT, "num_steps": 1}),
    }


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The keys that each kind of run logged."""
    home = tmp_path_factory.mktemp("runs")
    found, threads = {}, torch.get_num_threads()
    with at_home(home):
        for name, experiment in runs(tmp_path_factory.mktemp("copies")).items():
            result = session.train(experiment, SilentProgress())
            lines = RunFolder.open(result.run_id).metrics.read_text().splitlines()
            found[name] = {json.loads(line)["key"] for line in lines}
    torch.set_num_threads(threads)
    return found


def names_in(text):
    """The metrics that the first column of tables in `text` names, as patterns.

    `…/x` has the beginning of the name before it, `x/…` any end, `<x>` is any name.
    """
    names = []
    for row in re.findall(r"^\| (`[a-z]+/.*?) \|", text, re.MULTILINE):
        for name in re.findall(r"`(.+?)`", row):
            whole = re.sub(r"^…", lambda _: names[-1].rpartition("/")[0], name)
            names.append(whole)
    return {
        name: re.compile(re.sub(r"<\w+>|…", ".+", re.escape(name).replace(r"\-", "-")))
        for name in names
    }


META_TEST = re.compile(r"eval/(val|test-\w+)/")


def test_every_metric_that_is_logged_has_a_meaning_and_a_unit(logged):
    readme = (ROOT / "pipeline/README.md").read_text(encoding="utf-8")
    for text in (readme, page("metrics")):
        known = names_in(text)
        for kind, keys in logged.items():
            unknown = {k for k in keys if not any(p.fullmatch(k) for p in known.values())}
            assert not unknown, kind


def test_every_metric_of_the_page_is_logged_by_some_run(logged):
    keys = set().union(*logged.values())
    never = {n for n, p in names_in(page("metrics")).items() if not any(map(p.fullmatch, keys))}
    assert not never


def test_meta_tests_log_what_the_page_says_by_kind(logged):
    def figures(kind, split):
        return {key.split("/")[2] for key in logged[kind] if key.startswith(f"eval/{split}/")}

    assert figures("alphabets", "test") == {"auc", "accuracy", "error", "loss"}
    assert figures("alphabets", "test-scratch") == figures("alphabets", "test")
    assert figures("episodes", "val") == {"accuracy", "error", "loss"}
    assert figures("sinusoids", "test") == {"loss"}
    assert figures("control", "test") == {"auc", "return", "env_steps_to_target", "reached"}
    assert figures("atari", "test") == {"auc", "return", "human_normalized"}


def test_only_runs_that_the_page_says_have_these(logged):
    having = {
        "train/path_length": {"alphabets", "copies", "async", "data sets", "control", "atari"},
        "train/error": set(logged) - {"sinusoids", "control", "atari"},
        "perf/env_steps_per_s": {"control", "atari"},
        "perf/queue_depth": {"async"},
        "fault/copies_behind": {"copies"},
    }
    for key, kinds in having.items():
        assert {kind for kind, keys in logged.items() if key in keys} == kinds, key
