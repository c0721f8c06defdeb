"""What makes a run tiny, as words of `outerloop train`; how many steps it takes is the test's."""

SMALL = (
    "quickstart",
    "data.num_train_tasks=4",
    "data.num_test_tasks=1",
    "task.num_ways=3",
    "task.batch_size=2",
    "model.num_filters=4",
    "meta.batch_size=2",
    "checkpoint.every=1",
)
TINY = (*SMALL, "inner.num_steps=4", "evaluation.num_steps=2", "workers.count=0")
