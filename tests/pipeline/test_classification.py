import time

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import Experiment
from pipeline.data.alphabets import AlphabetSet, content_digest, lay_out
from pipeline.data.augment import apply_affine
from pipeline.errors import BadInputError
from pipeline.tasks import AlphabetFamily, ClassificationTask, sample_meta_batch, task_family
from pipeline.tasks.minibatches import MinibatchSchedule

CPU = torch.device("cpu")


def alphabet_set(sizes=(6, 6, 6, 6, 6, 3), num_drawings=8):
    """Every image is filled with its own row number, so a test can see which one it got."""
    alphabets = lay_out((f"alphabet {i}", n, num_drawings) for i, n in enumerate(sizes))
    rows = np.arange(sum(sizes) * num_drawings)
    assert len(rows) <= 400
    images = np.zeros((len(rows), 28, 28), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = rows % 256, rows // 256
    return AlphabetSet(
        "numbered", images, alphabets, "a test", "none", content_digest(alphabets, images)
    )


def experiment(**task):
    options = {"num_ways": 5, "num_train_drawings": 6, "num_test_drawings": 2, "batch_size": 4}
    return Experiment.model_validate(
        {
            "data": {"num_train_tasks": 3, "num_test_tasks": 2},
            "task": options | {"augment": False} | task,
        }
    )


def with_data(base, **data):
    return base.model_copy(update={"data": base.data.model_copy(update=data)})


def rows_of(images):
    """Which rows of `alphabet_set` the images [..., 28, 28] in [0, 1] are."""
    pixels = (images * 255).round().long().reshape(-1, 28, 28)
    return (pixels[:, 0, 0] + 256 * pixels[:, 0, 1]).tolist()


def names(family, split):
    return [family.task_name(split, i) for i in range(family.num_tasks(split))]


class Linear(nn.Module):
    def __init__(self, num_ways=5):
        super().__init__()
        self.head = nn.Linear(784, num_ways)
        self.norm = nn.BatchNorm1d(784)
        self.seen = []

    def forward(self, inputs):
        self.seen.append(inputs)
        return self.head(self.norm(inputs.flatten(1)))


class Oracle(nn.Module):
    """Knows the label of every image by its row in `alphabet_set`."""

    def __init__(self, label_of_row, num_ways=5, wrong=()):
        super().__init__()
        self.label_of_row, self.num_ways, self.wrong = label_of_row, num_ways, set(wrong)

    def forward(self, inputs):
        labels = [
            (self.label_of_row[row] + (row in self.wrong)) % self.num_ways
            for row in rows_of(inputs[:, 0])
        ]
        logits = 20.0 * nn.functional.one_hot(torch.tensor(labels), self.num_ways)
        return logits.bfloat16()  # as a model in mixed precision does


# --- the family ---------------------------------------------------------------------------------


def test_splits_never_share_an_alphabet():
    dataset = alphabet_set()
    for seed in range(30):
        config = experiment().model_copy(update={"seed": seed})
        family = AlphabetFamily(config, CPU, dataset)
        train, test = names(family, "train"), names(family, "test")
        assert (len(set(train)), len(set(test))) == (3, 2)
        assert not set(train) & set(test)
        assert "alphabet 5" not in train + test  # has fewer characters than ways


def test_held_out_alphabets_do_not_depend_on_the_number_of_training_tasks():
    dataset = alphabet_set()
    few = AlphabetFamily(with_data(experiment(), num_train_tasks=1), CPU, dataset)
    many = AlphabetFamily(with_data(experiment(), num_train_tasks=3), CPU, dataset)
    assert names(few, "test") == names(many, "test")
    assert names(few, "train") == names(many, "train")[:1]


def test_split_follows_the_seed():
    dataset = alphabet_set()
    splits = {
        tuple(
            names(AlphabetFamily(experiment().model_copy(update={"seed": s}), CPU, dataset), "test")
        )
        for s in range(20)
    }
    assert len(splits) > 5


def drawings(task):
    """Rows of a task's training and held-out drawings, by label."""
    train = list(zip(task._labels.tolist(), rows_of(task._inputs[:, 0]), strict=True))
    held_out = zip(
        task._held_out_labels.tolist(), rows_of(task._held_out_inputs[:, 0]), strict=True
    )
    return train, list(held_out)


def test_task_holds_out_drawings_of_the_characters_it_trains_on():
    dataset = alphabet_set()
    family = AlphabetFamily(experiment(), CPU, dataset)
    alphabet = next(a for a in dataset.alphabets if a.name == family.task_name("train", 1))
    character_of_row = {row: i for i, rows in enumerate(alphabet.characters) for row in rows}
    train, held_out = drawings(family.make("train", 1, seed=0))
    assert (len(train), len(held_out)) == (5 * 6, 5 * 2)
    assert len({row for _, row in train + held_out}) == 5 * 8  # no drawing twice
    characters = {(label, character_of_row[row]) for label, row in train + held_out}
    assert len(characters) == 5  # one character a label, the same for both parts


def test_task_means_the_same_whatever_its_seed_while_minibatches_follow_it():
    family = AlphabetFamily(experiment(augment=True), CPU, alphabet_set())
    one, again, other = (family.make("train", 0, seed=s) for s in (1, 1, 2))
    assert drawings(one) == drawings(other)
    for step in range(5):
        for a, b in zip(one.minibatch(step), again.minibatch(step), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.minibatch(0)[0], other.minibatch(0)[0])


def test_characters_are_drawn_by_the_root_seed():
    dataset = alphabet_set()
    chosen = set()
    for seed in range(10):
        family = AlphabetFamily(experiment().model_copy(update={"seed": seed}), CPU, dataset)
        tasks = {family.task_name(s, i): (s, i) for s in ("train", "test") for i in range(2)}
        if "alphabet 0" in tasks:
            chosen.add(str(drawings(family.make(*tasks["alphabet 0"], seed=0))))
    assert len(chosen) > 2


def test_each_alphabet_has_a_draw_of_its_own():
    dataset = alphabet_set(sizes=(9, 9, 9, 9, 9))
    family = AlphabetFamily(experiment(), CPU, dataset)
    start_of = {a.name: a.characters[0].start for a in dataset.alphabets}
    within = {
        str([row - start_of[name] for _, row in drawings(family.make("train", i, seed=0))[0]])
        for i, name in enumerate(names(family, "train"))
    }
    assert len(within) == 3


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (experiment(num_ways=7), r"task\.num_ways=7: the largest alphabet of numbered has 6"),
        (experiment(num_test_drawings=3), r"num_test_drawings=3: 9 drawings .*numbered has 8"),
        (
            with_data(experiment(), num_train_tasks=4),
            r"data\.num_train_tasks=4 and data\.num_test_tasks=2: 6 alphabets; numbered has 5 with",
        ),
    ],
)
def test_too_little_data_names_the_key_and_what_there_is(config, says):
    with pytest.raises(BadInputError, match=says) as info:
        AlphabetFamily(config, CPU, alphabet_set())
    assert "\n" not in str(info.value)


def test_unknown_data_set_lists_what_there_is():
    with pytest.raises(
        BadInputError, match="'omnigloot': unknown; known: cifar-fs, glyphs, miniimagenet, omniglot"
    ):
        task_family(with_data(experiment(), name="omnigloot"), CPU)


# --- meta-batches -------------------------------------------------------------------------------


def meta_batches(num_tasks, batch_size, seed=0, num_steps=60):
    config = Experiment.model_validate(
        {"seed": seed, "data": {"num_train_tasks": num_tasks}, "meta": {"batch_size": batch_size}}
    )
    return [sample_meta_batch(config, step) for step in range(num_steps)]


def test_meta_batch_has_no_task_twice_and_all_tasks_come():
    batches = meta_batches(20, 8)
    assert all(len(b) == len(set(b)) == 8 for b in batches)
    counts = np.bincount(np.concatenate(batches), minlength=20)
    assert counts.sum() == 480
    assert counts.min() > 8


def test_meta_batch_larger_than_the_family_takes_tasks_in_turn():
    for batch in meta_batches(3, 8):
        assert sorted(np.bincount(batch, minlength=3)) == [2, 3, 3]


def test_meta_batch_is_a_function_of_seed_and_step():
    assert meta_batches(20, 8) == meta_batches(20, 8)
    assert meta_batches(20, 8) != meta_batches(20, 8, seed=1)
    batches = meta_batches(20, 8)
    assert len({tuple(b) for b in batches}) == len(batches)


# --- minibatches --------------------------------------------------------------------------------


def schedule(seed=0, num_examples=30, batch_size=4, augment=True):
    return MinibatchSchedule(seed, num_examples, batch_size, augment, CPU)


def test_minibatch_depends_on_seed_and_step_alone_not_on_what_came_before():
    in_order = schedule()
    steps = [tuple(t.clone() for t in in_order(step)) for step in range(200)]
    jumping = schedule()
    for step in (150, 3, 199, 66, 0, 65, 3):
        for a, b in zip(jumping(step), steps[step], strict=True):
            assert torch.equal(a, b)
    assert len({str(indices.tolist()) for indices, _ in steps}) == 200


def test_every_example_comes_equally_often():
    examples = schedule(num_examples=20, batch_size=4)
    passes = torch.cat([examples(step)[0] for step in range(60)]).view(12, 20)
    assert torch.equal(passes.sort(dim=1).values, torch.arange(20).expand(12, 20))


def test_batch_may_be_larger_than_the_number_of_examples():
    indices, matrices = schedule(num_examples=6, batch_size=20)(5)
    assert (len(indices), matrices.shape) == (20, (20, 2, 3))
    assert torch.bincount(indices, minlength=6).max() <= 5


# --- the task -----------------------------------------------------------------------------------


def numbered_task(augment=False, seed=0):
    return AlphabetFamily(experiment(augment=augment), CPU, alphabet_set()).make("train", 0, seed)


def test_model_gets_normalised_images_in_channels_last_memory():
    task, model = numbered_task(augment=True), Linear()
    task.loss(model, 0)
    (inputs,) = model.seen
    assert inputs.shape == (4, 1, 28, 28)
    assert inputs.stride() == (784, 1, 28, 1)
    assert inputs.dtype == torch.float32
    assert inputs.min() >= 0
    assert inputs.max() <= 1


def test_labels_belong_to_their_images():
    task = numbered_task()
    train, _ = drawings(task)
    label_of_row = {row: label for label, row in train}
    for step in range(40):
        inputs, labels = task.minibatch(step)
        assert labels.tolist() == [label_of_row[row] for row in rows_of(inputs[:, 0])]


def test_augmentation_moves_the_images_of_the_minibatch():
    plain, moved = numbered_task(), numbered_task(augment=True)
    _, matrices = moved._schedule(2)
    indices, _ = moved._schedule(2)
    expected = apply_affine(moved._inputs[indices], matrices)
    assert torch.equal(moved.minibatch(2)[0], expected)
    assert not torch.equal(moved.minibatch(2)[0], plain.minibatch(2)[0])


def test_loss_is_float32_cross_entropy_and_error_the_share_of_mistakes():
    task = numbered_task()
    train, _ = drawings(task)
    rows = rows_of(task.minibatch(0)[0][:, 0])
    model = Oracle({row: label for label, row in train}, wrong=rows[:1])
    loss = task.loss(model, 0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(20 / 4, abs=1e-3)
    error = task.training_metrics()["error"]
    assert error.item() == 0.25
    assert not error.requires_grad


def test_loss_reaches_the_parameters():
    task, model = numbered_task(), Linear()
    task.loss(model, 0).backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_evaluation_sees_held_out_drawings_alone_and_as_they_are():
    task = numbered_task(augment=True)
    _, held_out = drawings(task)
    labels = {row: label for label, row in held_out}
    figures = task.evaluate(Oracle(labels, wrong=list(labels)[:3]))
    assert figures["accuracy"] == pytest.approx(0.7)
    assert figures["error"] == pytest.approx(0.3)
    assert figures["loss"] == pytest.approx(20 * 0.3, abs=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_and_statistics_as_they_were(training):
    task, model = numbered_task(), Linear()
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task.evaluate(model)
    assert model.training == model.norm.training == training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not model.seen[0].requires_grad


def test_restarted_task_goes_on_with_the_same_minibatches():
    first = numbered_task(augment=True, seed=3)
    for step in range(70):
        first.minibatch(step)
    second = numbered_task(augment=True, seed=3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.minibatch(70)[0], second.minibatch(70)[0])


def test_minibatch_is_assembled_in_well_under_the_time_of_an_inner_step():
    """A minibatch of the Omniglot experiment takes about 0.1 ms; the bound is for busy machines."""
    images = np.zeros((20, 20, 28, 28), dtype=np.uint8)
    task = ClassificationTask(
        images[:, :15], images[:, 15:], seed=0, batch_size=20, augment=True, device=CPU
    )
    times = []
    for step in range(300):
        start = time.perf_counter()
        task.minibatch(step)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5e-3


@pytest.mark.gpu
def test_minibatch_is_the_same_on_a_gpu():
    dataset = alphabet_set()
    config = experiment(augment=True)
    on_cpu = AlphabetFamily(config, CPU, dataset).make("train", 0, seed=1)
    on_gpu = AlphabetFamily(config, torch.device("cuda"), dataset).make("train", 0, seed=1)
    for step in (0, 1, 70):
        (inputs, labels), (gpu_inputs, gpu_labels) = on_cpu.minibatch(step), on_gpu.minibatch(step)
        assert torch.equal(labels, gpu_labels.cpu())
        torch.testing.assert_close(inputs, gpu_inputs.cpu(), atol=1e-4, rtol=0)
