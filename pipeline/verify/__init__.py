"""Whether a run's folder is whole, from end to end; nothing in it is changed.

    subject.py        what the checks know of the run       report.py    what they come to
    checkpoints.py    origin.py                             checkpoints, and of which run they are
    summary.py        throughput.py                         summary.json
    evaluation.py     results.py       alike.py             meta-tests
    curves.py         log.py                                the local metric log
    rows.py           partitions.py    in_flight.py         rows of inner steps
    trajectories.py   expected.py      figures.py           rows against counters and curves
    tracking.py       waiting.py                            where it is tracked, what waits
    stored.py         database.py                           the run as MLflow has it
    stored_points.py  stored_things.py points.py            what was sent against that
    lineage.py                                              which copies the run has part in
    run.py            all of them in order

A check is a generator of problems, a line each. What a process that died may leave behind is no
problem but a note; neither is what could not be checked.
"""

from pipeline.verify.run import MLFLOW_TIMEOUT_S, Verdict, verify_run

__all__ = ["MLFLOW_TIMEOUT_S", "Verdict", "verify_run"]
