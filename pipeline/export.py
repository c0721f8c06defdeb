"""A trained model as a folder that stands alone: weights, configuration, and a card to read.

    model.safetensors   parameters and batch-norm statistics by name
    config.yaml         the resolved experiment
    model.json          format version, SHA-256 of the weights, sizes, how inputs are prepared
    README.md           what it is, how it was trained and tested, how to load it

No part of it is a pickle, and to load it takes nothing else: no data set, no run.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from pipeline.checkpoint import Checkpoint, CheckpointStore
from pipeline.config import Experiment, load_experiment, to_yaml
from pipeline.errors import BadInputError
from pipeline.exported_weights import (
    ABOUT,
    FORMAT_VERSION,
    WEIGHTS,
    load_weights,
    read_about,
    read_weights,
)
from pipeline.files import atomic_folder, disk_errors
from pipeline.messages import TaskSpec
from pipeline.model_card import model_card
from pipeline.network import build_network
from pipeline.runs import RunFolder, json_text
from pipeline.tasks.shapes import Preparation, TaskShape, task_shape
from pipeline.workers import make_worker

CONFIG, CARD = "config.yaml", "README.md"

MAX_SIZE = 4096  # of an image, in pixels or channels


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """What an exported folder holds."""

    experiment: Experiment
    model: nn.Module  # a learner of episodes, or the network that inner loops train
    preparation: Preparation
    num_outputs: int  # of the network: classes, targets of a regression, or actions


def export_run(run: RunFolder, folder: Path) -> dict[str, Any]:
    """Write the model that the run's meta-test judged to `folder`; return what `model.json` says.

    BadInputError if there is no checkpoint yet, or `folder` is there already.
    """
    if folder.exists():
        raise BadInputError(f"{folder}: is there already; give a folder that is not")
    experiment = run.read_experiment()
    checkpoint = tested_checkpoint(run, experiment)
    return write_export(run, experiment, checkpoint, folder, "give another folder")


def write_export(
    run: RunFolder, experiment: Experiment, checkpoint: Checkpoint, folder: Path, advice: str
) -> dict[str, Any]:
    """Write the model of a checkpoint to `folder`; return what `model.json` says.

    RunFailedError, with `advice`, if the disk does not take it.
    """
    here = {"workers": experiment.workers.model_copy(update={"device": "cpu", "threads": 1})}
    worker = make_worker(experiment.model_copy(update=here))
    step, name = checkpoint.step, experiment.algorithm.name
    # As for a held-out task, so that an output layer that belonged to a training task is fresh.
    worker.prepare(TaskSpec(step, 0, 0, "test", step, 0, "evaluate", name), [checkpoint.params])
    state = {key: value.contiguous().clone() for key, value in worker.model.state_dict().items()}
    weights = safetensors.torch.save(state)
    about = {
        "format_version": FORMAT_VERSION,
        "run_id": run.run_id,
        "algorithm": name,
        "outer_step": step,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "num_outputs": task_shape(experiment).num_outputs,
        "continuous": task_shape(experiment).continuous,
        "preparation": asdict(worker.family.preparation()),
        "trained_on": {
            "data": experiment.data.name,
            "classes": worker.family.class_names("train"),
        },
    }
    with disk_errors(str(folder), advice):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as draft:
            (draft / WEIGHTS).write_bytes(weights)
            (draft / CONFIG).write_text(to_yaml(experiment), encoding="utf-8")
            (draft / ABOUT).write_text(json_text(about) + "\n", encoding="utf-8")
            (draft / CARD).write_text(model_card(run, experiment, step), encoding="utf-8")
    return about


def tested_checkpoint(run: RunFolder, experiment: Experiment) -> Checkpoint:
    """Return the checkpoint that a meta-test of the run judges: the best by validation, or newest.

    BadInputError if there is none yet.
    """
    store = CheckpointStore(run.checkpoints, keep=experiment.checkpoint.keep)
    newest = store.load_latest()
    if newest is None:
        raise BadInputError(
            f"run {run.run_id} has no checkpoint; run: outerloop train --resume {run.run_id}"
        )
    best = store.best()
    return newest if best is None else store.load(best.step)


def read_exported(folder: Path) -> ExportedModel:
    """Return what `export_run` wrote to `folder`.

    Raises BadInputError, naming the file, if it is not there, damaged or of another format.
    """
    about = read_about(folder)
    experiment = load_experiment(folder / CONFIG)
    # Its weights hold the encoder too; where that came from may be gone.
    model = experiment.model.model_copy(update={"pretrained": ""})
    weights = read_weights(folder)
    preparation, num_outputs = described_sizes(about, folder)
    if not 1 <= num_outputs <= sum(tensor.numel() for tensor in weights.values()):
        raise BadInputError(
            f"{folder / ABOUT}: num_outputs is {str(num_outputs)[:20]}, not what its weights "
            "are of; export the run again"
        )
    shape = TaskShape(
        preparation.channels,
        preparation.image_size,
        num_outputs,
        continuous=bool(about.get("continuous", False)),
    )
    network, _ = build_network(experiment.model_copy(update={"model": model}), shape=shape)
    load_weights(network, weights, str(folder))
    return ExportedModel(experiment, network.eval(), preparation, num_outputs)


def described_sizes(about: dict[str, Any], folder: Path) -> tuple[Preparation, int]:
    """Return how inputs are prepared, and the number of outputs."""
    try:
        fields = about["preparation"]
        preparation = Preparation(
            image_size=int(fields["image_size"]),
            channels=int(fields["channels"]),
            mean=tuple(map(float, fields["mean"])),
            std=tuple(map(float, fields["std"])),
        )
        if not (0 <= preparation.image_size <= MAX_SIZE and 0 < preparation.channels <= MAX_SIZE):
            raise ValueError(f"expected at most {MAX_SIZE} pixels and 1 to {MAX_SIZE} channels")
        return preparation, int(about["num_outputs"])
    except KeyError as error:
        raise BadInputError(f"{folder / ABOUT}: has no {error}; export the run again") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInputError(f"{folder / ABOUT}: sizes: {error}; export the run again") from None
