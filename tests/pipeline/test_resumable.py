"""What a resumed run may change, and what its checkpoint says."""

import math

import pytest

from pipeline.errors import BadInputError
from pipeline.resumable import check_fixed, check_meta, fixed_values
from tests.pipeline.runs_for_tests import tiny


def test_a_configuration_that_was_not_touched_is_that_of_its_checkpoint():
    experiment = tiny(algorithm={"name": "leap", "options": {"norm": False}})
    check_fixed("run", experiment, fixed_values(experiment))
    check_fixed("run", experiment, {})  # of a version that did not keep it


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        ({}, {"norm": False}, r"algorithm\.options\.norm=\(the default\), its .*norm=False"),
        ({"norm": False}, {}, r"algorithm\.options\.norm=False, its .*norm=\(the default\)"),
        ({"norm": True}, {"norm": False}, r"algorithm\.options\.norm=True, its .*norm=False"),
    ],
)
def test_options_that_were_added_removed_or_changed_are_named(now, before, said):
    trained = fixed_values(tiny(algorithm={"name": "leap", "options": before}))
    with pytest.raises(BadInputError, match=said):
        check_fixed("run", tiny(algorithm={"name": "leap", "options": now}), trained)


@pytest.mark.parametrize(
    ("meta", "part"),
    [
        ({}, "counters"),
        ({"counters": [1]}, "counters"),
        ({"counters": {"tasks": "3"}}, "counters"),
        ({"counters": {"tasks": -1}}, "counters"),
        ({"counters": {"tasks": math.inf}}, "counters"),
        ({"counters": {"other": 1}}, "counters"),
        ({"counters": {}, "schedule": 5}, "schedule"),
        ({"counters": {}, "experiment": [1]}, "experiment"),
    ],
)
def test_a_checkpoint_that_says_what_no_run_writes_is_refused(meta, part):
    with pytest.raises(BadInputError, match=f"'{part}' in the manifest"):
        check_meta("run", meta)
    check_meta("run", {"counters": {"tasks": 3, "train_s": 0.5}, "schedule": {}, "experiment": {}})
