"""Experiments by name: all of them are valid, and `show` explains every key."""

import re

import pytest
import yaml

from algorithms import META_LEARNERS
from jobs import catalog
from pipeline.config import field_rows
from pipeline.errors import BadInputError

NAMES = catalog.experiment_names()


def test_the_promised_experiments_are_there():
    methods = ("leap", "reptile", "fomaml", "finetune")
    promised = {f"{m}-omniglot{size}" for m in methods for size in ("", "-small")}
    assert promised | {"quickstart"} <= set(NAMES)
    assert NAMES[0] == "quickstart"


@pytest.mark.parametrize("name", NAMES)
def test_experiment_is_valid_and_says_what_it_departs_in(name):
    experiment = catalog.load(name, [])
    assert experiment.name == name
    assert catalog.describe(name) == experiment.description != ""
    text = catalog.find_experiment(name).read_text()
    said = text.replace("\n# ", " ")
    assert re.search(r"\(20\d\d\), .*(arXiv:\d{4}\.\d{5}|Workshop|ICLR)|Flennerhag.*arXiv", said)
    assert "Departs" in text


def test_leap_omniglot_is_the_papers_setting():
    experiment = catalog.load("leap-omniglot", [])
    assert (experiment.meta.num_steps, experiment.meta.batch_size) == (1000, 20)
    assert (experiment.inner.num_steps, experiment.inner.lr) == (100, 0.1)
    assert (experiment.outer.optimizer, experiment.outer.lr) == ("sgd", 0.1)
    assert (experiment.data.num_train_tasks, experiment.data.num_test_tasks) == (20, 10)
    assert (experiment.task.num_ways, experiment.task.batch_size) == (20, 20)
    assert (experiment.model.num_filters, experiment.model.num_blocks) == (64, 4)


def test_a_file_that_says_nothing_is_leap_omniglot(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\n", encoding="utf-8")
    mine, theirs = catalog.load(str(path), []), catalog.load("leap-omniglot", [])
    own = {"name", "description", "algorithm"}
    assert mine.model_dump(exclude=own) == theirs.model_dump(exclude=own)
    assert mine.algorithm.name == theirs.algorithm.name
    ours, written = (META_LEARNERS["leap"](**e.algorithm.options) for e in (mine, theirs))
    assert vars(ours) == vars(written)
    shown = catalog.explained_yaml(mine)
    assert "A key that a file leaves out takes its value from" in shown
    assert "leap-omniglot" in shown


def test_three_lines_that_extend_an_experiment_are_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: leap-omniglot-small\nalgorithm: {name: reptile}\nouter: {lr: 1.0}\n")
    mine, small = catalog.load(str(path), []), catalog.load("leap-omniglot-small", [])
    assert (mine.name, mine.algorithm.name, mine.outer.lr) == ("mine", "reptile", 1.0)
    assert (mine.meta, mine.inner, mine.task) == (small.meta, small.inner, small.task)
    assert "extends" not in yaml.safe_load(catalog.explained_yaml(mine))


@pytest.mark.parametrize("size", ["", "-small"])
def test_methods_are_compared_on_one_test_and_one_budget(size):
    def rest(method):
        tree = catalog.load(f"{method}-omniglot{size}", []).model_dump()
        return {
            k: v for k, v in tree.items() if k not in ("name", "description", "algorithm", "outer")
        }

    assert rest("leap") == rest("reptile") == rest("fomaml") == rest("finetune")


@pytest.mark.parametrize("name", NAMES)
def test_shown_experiment_reads_back_as_the_same(name, tmp_path):
    experiment = catalog.load(name, ["seed=7", "algorithm.options={}", "description='a: #b'"])
    path = tmp_path / "mine.yaml"
    path.write_text(catalog.explained_yaml(experiment), encoding="utf-8")
    assert catalog.load(str(path), []) == experiment


def test_every_key_is_explained():
    experiment = catalog.load("quickstart", [])
    text = catalog.explained_yaml(experiment)
    for key, _, meaning in field_rows(experiment):
        assert meaning, key
        assert f"# {meaning}\n" in text
    assert yaml.safe_load(text) == experiment.model_dump(mode="json")


def test_unknown_experiment_is_answered_with_the_nearest():
    with pytest.raises(BadInputError, match="did you mean 'leap-omniglot'"):
        catalog.find_experiment("leap-omniglott")
    with pytest.raises(BadInputError, match="known: quickstart"):
        catalog.find_experiment("zzz")
