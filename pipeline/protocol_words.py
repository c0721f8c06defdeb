"""What the figures of a meta-test depend on, in words, for tables and model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config_learning import EPISODE_KINDS


def tested_on(protocol: Mapping[str, Any]) -> str:
    """Return what tasks a meta-test of `protocol` (`evaluation.protocol_of`) is on."""
    kind = protocol.get("task.kind", "alphabets")
    if kind == "alphabets":
        return f"{protocol['data.name']}, {protocol['evaluation.num_steps']} inner steps"
    if kind == "datasets":
        held_out = ", ".join(protocol["test_tasks"])
        return f"{held_out}, {protocol['evaluation.num_steps']:,} inner steps"
    shots = f"{protocol['episodes.num_shots']}-shot"
    if kind == "sinusoids":
        return f"sinusoids, {shots}"
    runs = ", one-shot runs" if protocol["episodes.test"] == "one-shot-runs" else ""
    return f"{protocol['data.name']}, {protocol['episodes.num_ways']}-way {shots}{runs}"


def episode_conditions(protocol: Mapping[str, Any], learner: Mapping[str, Any]) -> list[str]:
    """Return what else a figure on episodes depends on; nothing for other tasks.

    `learner` is what `evaluation.learner_of` says; empty for several at once.
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
