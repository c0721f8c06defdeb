"""Whether a run's folder is whole, from end to end; nothing in it is changed.

    subject.py        what the checks know of the run       report.py    what they come to
    checkpoints.py    summary.py    evaluation.py           each kind of thing in the folder
    curves.py         log.py                                the local metric log
    rows.py           partitions.py    in_flight.py         rows of inner steps
    trajectories.py   expected.py      figures.py           rows against counters and curves
    tracking.py       stored.py    points.py                the log against MLflow
    lineage.py                                              which copies the run has part in
    run.py            all of them in order

A check is a generator of problems, a line each. What a process that died may leave behind is no
problem but a note; neither is what could not be checked.
"""

from pipeline.verify.run import MLFLOW_TIMEOUT_S, Verdict, verify_run

__all__ = ["MLFLOW_TIMEOUT_S", "Verdict", "verify_run"]
