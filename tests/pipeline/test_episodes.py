"""Episodes: disjoint, the same for a seed whatever the group, uniform, of distinct images."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Experiment
from pipeline.data.image_classes import ClassSplit, image_classes
from pipeline.data.registry import load_image_classes
from pipeline.data.splits import split_classes
from pipeline.errors import BadInputError
from pipeline.seeding import derive_seed
from pipeline.tasks.draws import EpisodeSize, draw_episode
from pipeline.tasks.episodes import EpisodeSampler, make_sampler
from pipeline.tasks.sinusoids import SinusoidSampler

SPLIT = ClassSplit(train=(0, 1, 2, 3, 4, 5), val=(6, 7), test=(8, 9))


def sizes(num_ways=2, num_shots=1, num_queries=2):
    return dict.fromkeys(("train", "val", "test"), EpisodeSize(num_ways, num_shots, num_queries))


def numbered(num_classes=10, num_images=6, channels=1, side=6):
    """Images whose corner pixels say which image it is, in which class."""
    num = num_classes * num_images
    shape = (num, side, side) if channels == 1 else (num, side, side, 3)
    images = np.random.default_rng(0).integers(0, 100, shape, dtype=np.uint8)
    images[:, 0, 0] = (100 + np.arange(num)).reshape(-1, *[1] * (channels == 3))
    classes = [(f"c{n}", num_images) for n in range(num_classes)]
    return image_classes("numbered", images, classes, "a test", "none")


def seeds(num, base=0):
    return [derive_seed(base, "episode", i) for i in range(num)]


def images_of(x):
    """Which image each of `x` [·, 1, H, W] is."""
    return (x[:, 0, 0, 0] * 255).round().long() - 100


def test_episode_has_its_classes_and_distinct_images_of_each():
    sampler = EpisodeSampler(numbered(), SPLIT, sizes(4, 2, 3))
    for episode in sampler.draw("train", seeds(30)):
        assert episode.support_x.shape == (8, 1, 6, 6)
        assert episode.query_x.shape == (12, 1, 6, 6)
        assert episode.support_x.dtype == torch.float32
        assert episode.support_x.stride()[1:] == (1, 6, 1) or episode.support_x.stride()[3] == 1
        assert episode.support_y.bincount().tolist() == [2] * 4
        assert episode.query_y.bincount().tolist() == [3] * 4
        numbers = images_of(torch.cat([episode.support_x, episode.query_x]))
        labels = torch.cat([episode.support_y, episode.query_y])
        assert len(numbers.unique()) == 20  # none twice, none in both
        classes = numbers // 6
        assert {len(classes[labels == label].unique()) for label in range(4)} == {1}
        assert len(classes.unique()) == 4


def test_images_are_ink_in_channels_last_memory():
    data = numbered()
    (episode,) = EpisodeSampler(data, SPLIT, sizes()).draw("test", [3])
    image = data.images[int(images_of(episode.query_x)[0])]
    assert torch.equal(episode.query_x[0, 0], torch.from_numpy(image).float() / 255)
    assert episode.query_x.stride() == (36, 1, 6, 1)


def test_splits_share_no_class():
    sampler = EpisodeSampler(numbered(), SPLIT, sizes())
    for part, own in (("train", SPLIT.train), ("val", SPLIT.val), ("test", SPLIT.test)):
        episodes = sampler.draw(part, seeds(60))
        drawn = {int(n) // 6 for e in episodes for n in images_of(e.support_x)}
        assert drawn == set(own)


def same(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("support_x", "support_y", "query_x", "query_y")
    )


@pytest.mark.parametrize("rotations", [False, True])
def test_episode_is_a_function_of_its_seed_whatever_the_group(rotations):
    sampler = EpisodeSampler(numbered(), SPLIT, sizes(), rotations=rotations)
    together = sampler.draw("train", seeds(8))
    another = EpisodeSampler(numbered(), SPLIT, sizes(), rotations=rotations)
    for episode, seed in zip(together, seeds(8), strict=True):
        assert same(episode, another.draw("train", [seed])[0])
    assert not same(together[0], together[1])


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


def test_classes_labels_and_images_are_drawn_uniformly():
    classes = np.array([[0, 5], [5, 10], [10, 15], [15, 20]])
    pairs, places = np.zeros((4, 3)), np.zeros((20, 3))
    for seed in seeds(4000):
        draw = draw_episode(EpisodeSize(3, 1, 2), classes, 1, seed)
        np.add.at(pairs, (draw.rows[:3] // 5, draw.labels[:3]), 1)
        places[draw.rows[:3], np.arange(3)] += 1
    assert pairs.sum(0).tolist() == [4000.0] * 3
    # 99.99 % quantiles of chi-square with 11 and with 59 degrees of freedom, rounded up.
    assert chi_square(pairs) < 38
    assert chi_square(places) < 106


def test_order_of_the_examples_says_nothing_of_their_labels():
    first = [
        draw_episode(EpisodeSize(2, 3, 3), np.array([[0, 9], [9, 18]]), 1, seed).labels
        for seed in seeds(2000)
    ]
    # Each place of support set and of queries holds either label half of the time.
    assert np.abs(np.mean(first, axis=0) - 0.5).max() < 0.06


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    seed=st.integers(0, 2**63 - 1),
)
def test_classes_of_different_sizes_give_images_of_their_own(lengths, seed):
    ends = np.cumsum(lengths)
    ranges = np.stack([ends - lengths, ends], axis=1)
    draw = draw_episode(EpisodeSize(2, 1, 2), ranges, 1, seed)
    assert len(set(draw.rows.tolist())) == 6
    for label in range(2):
        owners = np.searchsorted(ends, draw.rows[draw.labels == label], side="right")
        assert len(set(owners.tolist())) == 1


def test_rotated_classes_are_classes_of_their_own_in_the_same_split():
    data = numbered(side=5)
    sampler = EpisodeSampler(data, SPLIT, sizes(8, 1, 1), rotations=True)
    assert sampler.profile("test")["classes"] == 8
    flat = torch.from_numpy(data.images).float() / 255
    for episode in sampler.draw("test", seeds(5)):
        found = {}
        for image, label in zip(episode.query_x[:, 0], episode.query_y.tolist(), strict=True):
            for turn in range(4):
                turned = torch.rot90(flat, turn, (1, 2))
                match = (turned == image).flatten(1).all(1).nonzero()
                if len(match):
                    found[label] = (int(match[0]) // 6, turn)
        assert sorted(found.values()) == [(c, t) for c in (8, 9) for t in range(4)]


def test_colours_are_normalised_by_the_training_classes_alone():
    data = numbered(channels=3)
    data.images[48:] = 255  # the test classes
    sampler = EpisodeSampler(data, SPLIT, sizes(2, 3, 3))
    train = data.images[:36].reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(sampler.mean, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(sampler.std, train.std(0), rtol=1e-6)
    (episode,) = sampler.draw("test", [1])
    white = (1 - train.mean(0)) / train.std(0)
    np.testing.assert_allclose(episode.query_x[0, :, 2, 2], white, rtol=1e-5)
    assert episode.query_x.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_moves_and_mirrors_training_images_only():
    data = numbered(channels=3, side=12)
    plain, moved = (
        EpisodeSampler(data, SPLIT, sizes(), augment=augment) for augment in (False, True)
    )
    assert same(plain.draw("test", [5])[0], moved.draw("test", [5])[0])
    (before,), (after,) = plain.draw("train", [5]), moved.draw("train", [5])
    assert torch.equal(before.support_y, after.support_y)
    assert not torch.equal(before.query_x, after.query_x)
    draw = draw_episode(
        EpisodeSize(2, 1, 2), np.array([[6 * n, 6 * n + 6] for n in range(6)]), 1, 5
    )
    for place, image in enumerate(torch.cat([after.support_x, after.query_x])):
        framed = np.pad(data.images[draw.rows[place]], ((4, 4), (4, 4), (0, 0)))
        down, right = draw.offsets[place]
        crop = framed[down : down + 12, right : right + 12]
        crop = crop[:, ::-1] if draw.flips[place] else crop
        wanted = (crop / 255 - np.array(moved.mean)) / np.array(moved.std)
        np.testing.assert_allclose(image.permute(1, 2, 0), wanted, atol=1e-5)


def test_augmentation_of_ink_is_refused():
    with pytest.raises(BadInputError, match=r"episodes\.augment=true: .* not coloured"):
        EpisodeSampler(numbered(), SPLIT, sizes(), augment=True)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((3, 1, 1), "episodes.num_ways=3: numbered has 2 classes for the meta-test"),
        ((2, 4, 3), "episodes.num_shots=4 and episodes.num_queries=3: 7 images a class; numbered"),
    ],
)
def test_too_much_asked_is_one_line_with_key_value_and_what_there_is(size, says):
    with pytest.raises(BadInputError) as bad:
        EpisodeSampler(numbered(), SPLIT, sizes(*size)).check("test")
    assert str(bad.value).startswith(says)


def test_keys_of_meta_training_are_named_where_they_rule():
    own = sizes() | {"train": EpisodeSize(7, 1, 2)}
    with pytest.raises(BadInputError, match=r"episodes\.train_num_ways=7: .* 6 classes for meta-t"):
        EpisodeSampler(numbered(), SPLIT, own).check("train")
    EpisodeSampler(numbered(), SPLIT, own, rotations=True).check("train")


def test_sinusoids_follow_the_paper():
    sampler = SinusoidSampler(sizes(0, 10, 2000))
    episodes = sampler.draw("train", seeds(200))
    assert episodes[0].support_x.shape == (10, 1)
    assert episodes[0].num_ways == 0
    amplitudes, phases = [], []
    for episode in episodes:
        x, y = episode.query_x.double(), episode.query_y.double()
        basis = torch.cat([x.sin(), x.cos()], dim=1)
        a, b = torch.linalg.lstsq(basis, y).solution[:, 0].tolist()
        np.testing.assert_allclose(basis @ torch.tensor([a, b]).double(), y[:, 0], atol=1e-4)
        amplitudes.append(np.hypot(a, b))
        phases.append(np.arctan2(-b, a))
        assert x.abs().max() <= 5
    assert 0.1 <= min(amplitudes) < 0.4
    assert 4.6 < max(amplitudes) <= 5.001
    assert -1e-3 < min(phases) < 0.2
    assert 2.9 < max(phases) < np.pi + 1e-3
    assert same(sampler.draw("test", seeds(3))[2], sampler.draw("test", seeds(3)[2:])[0])


def experiment(**episodes):
    return Experiment.model_validate(
        {
            "algorithm": {"name": "prototypical"},
            "data": {"name": "glyphs"},
            "task": {"kind": "episodes"},
            "episodes": episodes,
        }
    )


def test_sampler_of_an_experiment_draws_from_glyphs():
    sampler = make_sampler(experiment(train_num_ways=20), torch.device("cpu"))
    assert sampler.profile("train")["num_ways"] == 20
    assert sampler.source.name == "glyphs"
    (episode,) = sampler.draw("test", [1])
    assert episode.query_x.shape == (75, 1, 28, 28)
    with pytest.raises(BadInputError, match=r"episodes\.num_ways=5000: glyphs has"):
        make_sampler(experiment(num_ways=5000), torch.device("cpu"))


@pytest.mark.skipif(
    not (Path(os.environ.get("OUTERLOOP_DATA", "")) / "omniglot/images_background.zip").is_file(),
    reason="OUTERLOOP_DATA does not point at a folder with omniglot/images_background.zip",
)
def test_an_episode_of_omniglot_is_drawn_in_well_under_a_millisecond():
    data = load_image_classes("omniglot")
    split = split_classes(data, "standard", 0, Path())
    sampler = EpisodeSampler(data, split, sizes(5, 1, 15))
    many = seeds(10)
    sampler.draw("train", many)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        sampler.draw("train", many)
        times.append((time.perf_counter() - start) / len(many))
    assert min(times) < 1e-3  # about 0.2 ms on one core
