"""What is done about failures, and that the documentation says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.failure import POLICY, Action, Decision, Kind, decide, limit_of
from tests.pipeline.runs_for_tests import tiny

README = Path(__file__).parents[2] / "pipeline" / "README.md"


def documented() -> dict[str, tuple[str, str]]:
    """Return (what is done, how often at most) by what fails, from the table."""
    section = README.read_text().partition("## What survives what")[2].partition("And besides")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    return {row[0]: (row[1], row[2].strip("`")) for row in rows[4:] if len(row) == 4}


def test_the_table_in_the_readme_is_what_the_code_does():
    told = {kind.value: (rule.action.value, rule.limit) for kind, rule in POLICY.items()}
    table = documented()
    table.pop("what fails", None)
    table.pop("---", None)
    assert table == told


def test_there_is_a_rule_for_every_kind():
    assert set(POLICY) == set(Kind)


@pytest.mark.parametrize("kind", [kind for kind, rule in POLICY.items() if rule.limit])
def test_what_fails_too_often_in_a_row_stops_the_run(kind):
    experiment = tiny(workers={"max_retries": 2}, meta={"max_bad_tasks": 5})
    rule = POLICY[kind]
    limit = limit_of(rule, experiment)
    configured = {"workers.max_retries": 2, "meta.max_bad_tasks": 5}
    assert str(limit) == str(configured.get(rule.limit, rule.limit))
    for before in range(limit):
        assert decide(kind, before, experiment).action is rule.action
    assert decide(kind, limit, experiment) == Decision(Action.STOP)
    assert decide(kind, limit + 50, experiment) == Decision(Action.STOP)


@pytest.mark.parametrize("kind", [kind for kind, rule in POLICY.items() if not rule.limit])
def test_what_has_no_limit_is_always_met_in_the_same_way(kind):
    for before in (0, 1, 7, 1000):
        assert decide(kind, before, tiny()).action is POLICY[kind].action


def test_the_first_time_nothing_is_waited_for_and_then_ever_longer_up_to_a_minute():
    patient = tiny(workers={"max_retries": 5000})
    waits = [decide(Kind.WORKER_DIED, before, patient).wait_s for before in range(9)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert decide(Kind.WORKER_DIED, 4999, patient).wait_s == 60
    assert decide(Kind.NODE_LOST, 8, tiny()).wait_s == 0


def test_no_retry_at_all_can_be_asked_for():
    experiment = tiny(workers={"max_retries": 0})
    assert decide(Kind.WORKER_DIED, 0, experiment).action is Action.STOP
