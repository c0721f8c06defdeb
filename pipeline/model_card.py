"""The README of an exported model: what it is, how it was trained and tested, how to load it."""

from __future__ import annotations

from pipeline.config import Experiment
from pipeline.errors import BadInputError
from pipeline.evaluation import Evaluation
from pipeline.learners import is_transductive
from pipeline.protocol_words import environment_conditions, episode_conditions, tested_on
from pipeline.protocols import learner_of, protocol_of
from pipeline.runs import RunFolder
from pipeline.task_kinds import ENVIRONMENT_KINDS, EPISODE_KINDS

ESTIMATOR_USE = (
    "from pipeline.estimator import load",
    "",
    'model = load("this folder").fit(support_x, support_y)',
    "labels = model.predict(query_x)",
)
AGENT_USE = (
    "from pathlib import Path",
    "",
    "from pipeline.export import read_exported",
    "",
    'network = read_exported(Path("this folder")).model',
    "output, value = network(observations)  # logits; or means, then log standard deviations",
)


def model_card(run: RunFolder, experiment: Experiment, outer_step: int) -> str:
    """Return what a reader should know of the run's model at `outer_step`, as Markdown."""
    protocol = protocol_of(experiment, experiment.datasets.held_out, "")
    conditions = environment_conditions(protocol)
    conditions += episode_conditions(protocol, learner_of(experiment, outer_step))
    lines = [
        f"# {experiment.name}: {experiment.algorithm.name}",
        "",
        experiment.description,
        "",
        f"- trained by outerloop, run `{run.run_id}`, outer step {outer_step:,}",
        f"- tasks: {tested_on(protocol)}",
        *(f"- {condition}" for condition in conditions),
        f"- options: {experiment.algorithm.options or 'default'}",
        "- all settings: `config.yaml`",
        "",
        "## Meta-test",
        "",
        *_meta_test(run, outer_step),
        "",
        "## Use",
        "",
        "```python",
        *(AGENT_USE if experiment.task.kind in ENVIRONMENT_KINDS else ESTIMATOR_USE),
        "```",
        "",
    ]
    if experiment.task.kind in EPISODE_KINDS and is_transductive(experiment):
        lines += [
            "It answers the queries of one `predict` together: the answer to a query depends on "
            "the others.",
            "",
        ]
    return "\n".join(lines)


def _meta_test(run: RunFolder, outer_step: int) -> list[str]:
    """Return the table of the run's meta-test, if it was of the parameters of `outer_step`."""
    none = [f"None of outer step {outer_step:,} yet: `outerloop evaluate {run.run_id}` makes one."]
    try:
        evaluation = Evaluation.from_parquet(run.evaluation)
    except BadInputError:
        return none
    if evaluation.outer_step != outer_step:
        return none
    return [
        "| method | metric | mean | 95 % interval | tasks |",
        "|---|---|---|---|---|",
        *(
            f"| {method} | {metric} | {row['mean']:.4f} | ± {row['ci95']:.4f} | {row['tasks']} |"
            for method, metrics in evaluation.summary().items()
            for metric, row in metrics.items()
        ),
    ]
