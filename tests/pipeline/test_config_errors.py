"""Errors of a configuration: all of them in one line, each with its source, in plain words."""

import os
import re
from pathlib import Path

import pytest

from jobs.catalog import find_experiment
from pipeline.config import Experiment, build_experiment, load_experiment, to_yaml
from pipeline.errors import BadInputError


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path, *overrides):
    with pytest.raises(BadInputError) as caught:
        load_experiment(path, overrides, find_experiment)
    return str(caught.value)


# --- who is to blame -----------------------------------------------------------------------------


def test_error_in_an_override_names_the_override_alone(write):
    path = write("seed: 1\nmeta: {num_steps: 3}\n")
    expected = "override meta.steps=abc: expected a whole number of at least 0, got 'abc'"
    assert refusal(path, "meta.steps=abc") == expected


def test_error_in_a_file_names_the_file_and_the_key_as_it_is_written_there(write):
    path = write("meta: {steps: abc}\n")
    assert refusal(path, "seed=1") == (
        f"{path}: meta.steps: expected a whole number of at least 0, got 'abc'"
    )


def test_error_in_an_extended_file_names_that_file(write):
    base = write("inner: {lr: fast}\n", "base.yaml")
    path = write("extends: base.yaml\ninner: {num_steps: 3}\n")
    assert refusal(path) == f"{base}: inner.lr: expected a number above 0, got 'fast'"


def test_override_of_a_whole_section_is_blamed_for_its_keys(write):
    said = refusal(write("inner: {lr: 0.1}"), "inner={lr: -1}")
    assert said == "override inner={lr: -1}: inner.lr: expected a number above 0, got -1"


def test_all_errors_are_told_at_once(write):
    path = write("seed: x\nmodle: {}\ninner: {lr: 0, optimizer: lion}\nseed: y\n")
    said = refusal(path, "meta.steps=-1", "workers.device=tpu", "nothing")
    parts = [
        "line 4: 'seed' is there twice, first on line 1",
        "seed: expected a whole number",
        "modle: unknown key (did you mean 'model'? known: agent, aggregator, ",
        "inner.lr: expected a number above 0, got 0",
        "inner.optimizer: expected sgd, adam or rmsprop, got 'lion'",
        "override meta.steps=-1: expected a whole number of at least 0, got -1",
        "override workers.device=tpu: expected auto, cpu, cuda or cuda:N, got 'tpu'",
        "override nothing: expected key=value",
    ]
    assert [part for part in parts if part not in said] == []
    assert said.startswith(f"{path}: line 4")
    assert said.count(str(path)) == 1
    assert said.count("; ") == len(parts) - 1
    assert "\n" not in said


# --- plain words ---------------------------------------------------------------------------------

PLAIN = {
    "meta=5": "expected keys and values (num_steps, batch_size, ",
    "meta=": "expected keys and values (num_steps, batch_size, ",
    "evaluation.baselines=scratch": "expected a list of names in brackets, got 'scratch'",
    "evaluation.baselines=[1]": "expected a list of names in brackets, got 1",
    "outer.activation=0.3": "expected at most 1/4 (1 over outer.delay), got 0.3",
    "workers.count=1.5": "expected auto or a whole number of at least 0, got 1.5",
    "model.num_blocks=9": "expected a whole number of at least 1 and at most 4, got 9",
    "outer.momentum=1": "expected a number of at least 0 and below 1, got 1",
    "inner.lr=.inf": "expected a number above 0",
    "model.batch_norm=perhaps": "expected true or false, got 'perhaps'",
    "tracking.experiment=''": "expected text of at least 1 character, got ''",
    "name=7": "expected text, got 7",
    "name=../x": "expected at most 64 letters, digits",
    "algorithm.name=leep": "unknown meta-learner 'leep' (did you mean 'leap'? known: classifier, ",
    "data.name=omniglott": "unknown data set 'omniglott' (did you mean 'omniglot'? known: ",
    "algorithm.options.norms=true": "unknown option of leap (did you mean 'norm'? known: loss, ",
    "algorithm.options.norm=3": "expected true or false, got 3",
    "algorithm.options.norm=[1]": "expected names with true, false, a number or text, got [1]",
    "algorithm.options=3": "expected names with true, false, a number or text, got 3",
    "meta.num_step=3": "unknown key (did you mean 'num_steps'? known: apply_every, batch_size, ",
    "inner.q=3": "unknown key (known: alpha, beta1, checkpoint_every, epochs, eps, lr, ",
}


@pytest.mark.parametrize("override", PLAIN)
def test_error_is_in_plain_words(override, write):
    said = refusal(write("seed: 0"), override)
    assert said.startswith(f"override {override}: {PLAIN[override]}")
    assert not re.search("dict|tuple|pattern|instance|input|__init__|Config", said)


def test_every_key_refuses_a_value_of_the_wrong_kind_in_words_of_its_own(write):
    path = write("seed: 0")
    for section, field in Experiment.model_fields.items():
        names = getattr(field.annotation, "model_fields", {"": None})
        for key in (f"{section}.{name}".rstrip(".") for name in names):
            assert refusal(path, f"{key}=[{{}}]").startswith(f"override {key}=[{{}}]: expected ")


@pytest.mark.parametrize("said", ["true", "no", "off"])
@pytest.mark.parametrize("key", ["meta.steps", "seed", "inner.lr", "outer.momentum"])
def test_true_and_false_are_no_numbers(said, key, write):
    expected = "a number" if "." in key and "steps" not in key else "a whole number"
    text = refusal(write("name: mine"), f"{key}={said}")
    assert text.startswith(f"override {key}={said}: expected {expected} ")
    assert text.endswith(f", got {'true' if said == 'true' else 'false'}")


def test_numbers_are_read_as_people_write_them(write):
    path = write("seed: 010\ninner: {lr: 1e-3, momentum: 0}\nouter: {lr: 3}\nmeta: {steps: 1_0}")
    experiment = load_experiment(path, ["workers.count=-0", "data.num_test_tasks=0x0A"])
    assert (experiment.seed, experiment.meta.num_steps, experiment.data.num_test_tasks) == (
        10, 10, 10,
    )  # fmt: skip
    assert (experiment.inner.lr, experiment.outer.lr) == (0.001, 3.0)


def test_a_key_that_is_overridden_twice_is_refused(write):
    said = refusal(write("seed: 0"), "seed=1", "inner.lr=0.2", "seed=2")
    assert said == "override seed=2: the key is there twice, first in override seed=1"


def test_keys_that_are_no_text_are_unknown(write):
    path = write("1: 2\nmeta: {2: 1}\n")
    said = refusal(path, "seed=1")
    assert said.startswith(f"{path}: ")
    assert "1: unknown key" in said
    assert "meta.2: unknown key" in said


# --- the text of the file ------------------------------------------------------------------------

NO_YAML = {
    "a:\n  b: [1, 2\n": "line 2, column 6: a bracket is not closed",
    "a: {b: 1}}\n": "line 1",
    "a:\n\tb: 1\n": "line 2, column 1: a tab: indent with spaces",
    "a: 'x\nb: 1\n": "line 1, column 4: a quote is not closed",
    "seed: 1\n  name: 2\n": "line 2, column 7: a ':' that cannot stand here",
    "a: @x": "line 1, column 4: a value cannot begin with this character: quote it",
    "a: *x": "line 1, column 4: '*' refers to an anchor that is not there",
    "a: &x {b: *x}": "an anchor that holds itself",
    "a: !!python/object:os.system {}": "only plain values are read",
    "a: 1\n---\nb: 2\n": "a second document ('---'): expected one",
    "{[1]: 2}": "a key that is a list",
    "a: \0": "a control character",
    "seed: " + 5000 * "9": "a number that is too long",
    9999 * "[": "nested too deep",
}


@pytest.mark.parametrize("text", NO_YAML, ids=[text[:12] for text in NO_YAML])
def test_yaml_error_has_line_column_and_a_reason_in_plain_words(text, write):
    path = write(text)
    said = refusal(path)
    assert said.startswith(f"{path}: is no YAML file: ")
    assert NO_YAML[text] in said
    assert "^" not in said


def test_other_files_that_are_none(write, tmp_path):
    path = write("- 1\n- 2")
    assert refusal(path).endswith("expected keys and values, e.g. 'seed: 0'; got a list of 2")
    path.write_bytes(b"name: \xff")
    assert refusal(path) == f"{path}: is no text: byte 6 is not UTF-8"
    assert "cannot be read" in refusal(tmp_path / "absent.yaml")


def test_keys_that_are_there_twice_are_all_refused_with_key_and_line(write):
    path = write("seed: 1\ninner:\n  lr: 1\n  lr: 2\nseed: 1\n")
    said = refusal(path)
    assert "line 5: 'seed' is there twice, first on line 1" in said
    assert "line 4: 'lr' is there twice, first on line 3" in said
    assert "'lr' is there twice" in refusal(write("seed: 1"), "inner={lr: 1, lr: 2}")


@pytest.mark.parametrize("value", ["0x" + 5000 * "f", "{!!binary aGk=: 1}"])
def test_values_that_cannot_be_shown_are_refused_all_the_same(value, write):
    assert refusal(write(f"seed: {value}")).endswith(", got something that cannot be shown")


def test_dates_stay_text(write):
    assert load_experiment(write("name: 2024-01-31")).name == "2024-01-31"


# --- steps and num_steps -------------------------------------------------------------------------


def test_steps_is_short_for_num_steps_wherever_it_stands(write):
    path = write("meta: {num_steps: 3}")
    assert load_experiment(path, ["meta.steps=5"]).meta.num_steps == 5
    path = write("extends: mine.yaml\nmeta: {steps: 4}", "short.yaml")
    assert load_experiment(path).meta.num_steps == 4
    assert load_experiment(path, ["meta.num_steps=6"]).meta.num_steps == 6
    assert build_experiment({"meta": {"steps": 7}}, "test").meta.num_steps == 7


def test_steps_and_num_steps_together_are_refused(write):
    both = "meta.steps is short for meta.num_steps: give one of the two"
    path = write("meta: {steps: 3, num_steps: 3}")
    assert refusal(path) == f"{path}: {both}"
    said = refusal(write("seed: 0"), "meta.steps=3", "meta.num_steps=4")
    assert said == f"override meta.steps=3: {both}"


# --- extends -------------------------------------------------------------------------------------


def test_file_takes_what_it_leaves_out_from_the_experiment_that_it_extends(write):
    path = write("extends: quickstart\ninner:\n  lr: 0.2\n")
    mine = load_experiment(path, ["seed=3"], find_experiment)
    base = load_experiment(find_experiment("quickstart"))
    assert (mine.name, mine.inner.lr, mine.seed) == ("mine", 0.2, 3)
    assert mine.description == "quickstart, with changes"
    left = {"name", "description", "seed", "inner"}
    assert mine.model_dump(exclude=left) == base.model_dump(exclude=left)
    assert mine.inner.num_steps == base.inner.num_steps
    assert "extends" not in to_yaml(mine)


def test_extended_files_form_a_chain_relative_to_each_file(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write("extends: leap-omniglot\nseed: 1\nname: first\n", "deep/first.yaml")
    write("extends: first.yaml\nouter: {lr: 0.5}\n", "deep/second.yaml")
    path = write("extends: deep/second.yaml\ndescription: third\n", "third.yaml")
    got = load_experiment(path, [], find_experiment)
    assert (got.seed, got.outer.lr, got.name, got.description) == (1, 0.5, "third", "third")


@pytest.mark.parametrize("said", ["mine.yaml", "other.yaml"])
def test_files_that_extend_each_other_are_refused(said, write):
    write("extends: ./mine.yaml", "other.yaml")
    path = write(f"extends: {said}")
    assert "files that extend each other: " in refusal(path)


def test_extends_that_leads_nowhere_is_refused(write):
    path = write("extends: quickstrat")
    assert refusal(path).startswith(f"{path}: extends: unknown experiment 'quickstrat'; did you")
    assert "extends: there is no file" in refusal(write("extends: absent.yaml"))
    assert "expected an experiment's name or a YAML file, got [" in refusal(write("extends: [a]"))
    assert "override extends=quickstart: unknown key" in refusal(
        write("seed: 0"), "extends=quickstart"
    )


# --- another algorithm ---------------------------------------------------------------------------


def test_another_algorithm_leaves_the_options_of_the_first_and_says_so(write):
    leap = find_experiment("leap-omniglot")
    changed = load_experiment(leap, ["algorithm.name=reptile"])
    assert changed.algorithm.options == {}
    assert changed.description.endswith("; here with algorithm.name=reptile")
    same = load_experiment(leap, ["algorithm.name=leap"])
    assert same == load_experiment(leap)
    path = write("extends: leap-omniglot\nalgorithm: {name: fomaml}\n")
    assert load_experiment(path, [], find_experiment).algorithm.options == {}


def test_options_are_those_of_the_algorithm_whatever_the_order(write):
    path = write("algorithm: {name: reptile}")
    words = ["algorithm.options.norm=false", "algorithm.name=leap"]
    assert load_experiment(path, words).algorithm.options == {"norm": False}
    said = refusal(path, "algorithm.options.norm=false")
    assert said.endswith("unknown option of reptile (there are none)")


# --- a minibatch and its task --------------------------------------------------------------------


def test_minibatch_larger_than_the_training_set_is_refused_with_numbers(write):
    path = write("task: {num_ways: 5, num_train_drawings: 4, batch_size: 20}")
    assert load_experiment(path).task.batch_size == 20
    numbers = "is more than the 20 examples that a task trains on (5 of task.num_ways by 4 of "
    assert f"override task.batch_size=21: 21 {numbers}" in refusal(path, "task.batch_size=21")
    said = refusal(path, "task.num_ways=4")
    assert said.startswith("override task.num_ways=4: task.batch_size: 20 is more than the 16")


def test_values_of_the_caller_are_left_alone():
    tree = {"meta": {"steps": 3}, "algorithm": {"name": "reptile"}}
    build_experiment(tree, "test")
    assert tree == {"meta": {"steps": 3}, "algorithm": {"name": "reptile"}}


def test_what_is_no_file_is_not_read(tmp_path):
    """A device has no end, and a pipe may have nobody who writes."""
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(BadInputError, match="is no file; expected an experiment's YAML file"):
            load_experiment(path)
