"""What the figures of a meta-test depend on, in words, for tables and model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.task_kinds import ENVIRONMENT_KINDS, EPISODE_KINDS


def tested_on(protocol: Mapping[str, Any]) -> str:
    """Return what tasks a meta-test of `protocol` (`protocols.protocol_of`) is on."""
    kind = protocol.get("task.kind", "alphabets")
    if kind == "alphabets":
        return f"{protocol['data.name']}, {protocol['evaluation.num_steps']} inner steps"
    if kind == "datasets":
        held_out = ", ".join(protocol["test_tasks"])
        return f"{held_out}, {protocol['evaluation.num_steps']:,} inner steps"
    if kind in ENVIRONMENT_KINDS:
        names = protocol["environments.name" if kind == "control" else "environments.held_out"]
        named = names if isinstance(names, str) else ", ".join(names)
        return f"{named}, {protocol['env_steps']:,} env steps"
    shots = f"{protocol['episodes.num_shots']}-shot"
    if kind == "sinusoids":
        return f"sinusoids, {shots}"
    runs = ", one-shot runs" if protocol["episodes.test"] == "one-shot-runs" else ""
    return f"{protocol['data.name']}, {protocol['episodes.num_ways']}-way {shots}{runs}"


def subject(protocol: Mapping[str, Any]) -> str:
    """Return what the held-out tasks of `protocol` are taken from, for the title of a plot."""
    kind = protocol.get("task.kind", "alphabets")
    if kind in ENVIRONMENT_KINDS:
        return str(protocol["environments.name"]) if kind == "control" else "Atari games"
    return str(protocol["data.name"])


def environment_conditions(protocol: Mapping[str, Any]) -> list[str]:
    """Return what else a return depends on; nothing for tasks without environments."""
    kind = protocol.get("task.kind")
    if kind not in ENVIRONMENT_KINDS:
        return []
    words = [f"{protocol['environments.num_envs']} copies, true undiscounted returns"]
    if kind == "control":
        return words
    sticky = protocol["environments.repeat_action_probability"]
    side = protocol["environments.image_size"]
    colours = "grey" if protocol["environments.grayscale"] else "RGB"
    actions = "all 18 actions" if protocol["environments.full_action_space"] else "minimal actions"
    return [
        *words,
        f"sticky actions {sticky}" if sticky else "no sticky actions",
        f"{side}x{side} {colours}, {protocol['environments.stack_num']} frames stacked",
        f"frame skip {protocol['environments.frameskip']}",
        actions,
        *(["a life is an episode"] if protocol["environments.episodic_life"] else []),
    ]


def episode_conditions(protocol: Mapping[str, Any], learner: Mapping[str, Any]) -> list[str]:
    """Return what else a figure on episodes depends on; nothing for other tasks.

    `learner` is what `protocols.learner_of` says; empty for several at once.
    """
    if protocol.get("task.kind") not in EPISODE_KINDS:
        return []
    words = []
    if protocol["episodes.test"] == "drawn":
        words.append(f"{protocol['episodes.num_queries']} queries a class")
    if protocol["task.kind"] == "episodes":
        rotated = ", rotated ones too" if protocol["episodes.rotations"] else ""
        words.append(f"classes: split {protocol['episodes.split']}{rotated}")
    if "transductive" in learner:
        answered = "together (transductive)" if learner["transductive"] else "one by one"
        augmented = "augmented" if learner["episodes.augment"] else "not augmented"
        words += [f"answered {answered}", f"training images {augmented}"]
    return words
