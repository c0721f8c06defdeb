"""Models in MLflow: logged with a signature and an example of their input, registered on demand.

A model that learns from examples is logged so that `mlflow.pyfunc.load_model` predicts with it
(`pipeline.served_model`), an agent as its files alone. Each call may be repeated without changing
the result.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

    from pipeline.served_model import Sizes

STEP_TAG = "outerloop.step"
FORMAT_TAG = "outerloop.format"  # which older versions, whose models had other files, had not
FORMAT = "exported"
MODEL_TAG = "outerloop.model_id"
VERSIONS_TAG = "mlflow.modelVersions"
LOADER = "pipeline.served_model"
MODEL_FILES = f"data/{FORMAT}"  # where the model's own files are, among those that MLflow adds


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in the model registry."""

    name: str
    version: str
    outer_step: int


def log_model(
    client: MlflowClient, experiment_id: str, run_id: str, content: dict[str, Any]
) -> None:
    """Log an exported model's files as a model, which is READY only once all of them are there."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    name, step = content["name"], content["step"]
    same = [
        model
        for model in _models(client, experiment_id, run_id)
        if model.name == name
        and model.tags.items() >= {STEP_TAG: str(step), FORMAT_TAG: FORMAT}.items()
    ]
    model = same[0] if same else _create(client, experiment_id, run_id, content)
    if model.status == LoggedModelStatus.READY:
        return
    with tempfile.TemporaryDirectory() as folder:
        _describe(Path(folder) / "model", model.model_id, run_id, content["files"])
        client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def register(client: MlflowClient, experiment_id: str, run_id: str, name: str) -> Registered | None:
    """Register the run's newest model as a version of `name`; None if it has none that is whole.

    A model that is a version of it already becomes no second one.
    """
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    models = _models(client, experiment_id, run_id)
    whole = [model for model in models if model.status == LoggedModelStatus.READY]
    if not whole:
        return None
    newest = max(whole, key=lambda model: int(model.tags[STEP_TAG]))
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"name = '{name}'")
    same = [version for version in found if version.tags.get(MODEL_TAG) == newest.model_id]
    version = same[0] if same else _create_version(client, run_id, name, newest)
    return Registered(name, str(version.version), int(newest.tags[STEP_TAG]))


def _create_version(client: MlflowClient, run_id: str, name: str, model: Any) -> Any:
    """Make the model the next version of `name`, and have each say so of the other."""
    version = client.create_model_version(
        name, model.artifact_location, run_id, {MODEL_TAG: model.model_id}, model_id=model.model_id
    )
    # As `mlflow.register_model` does: the model's page shows its versions by this.
    known = json.loads(model.tags.get(VERSIONS_TAG, "[]"))
    known.append({"name": name, "version": version.version})
    client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: json.dumps(known)})
    return version


def _models(client: MlflowClient, experiment_id: str, run_id: str) -> Sequence[Any]:
    query = f"source_run_id = '{run_id}'"
    return [
        model
        for model in client.search_logged_models([experiment_id], query)
        if STEP_TAG in model.tags
    ]


def _create(client: MlflowClient, experiment_id: str, run_id: str, content: dict[str, Any]) -> Any:
    return client.create_logged_model(
        experiment_id,
        name=content["name"],
        source_run_id=run_id,
        tags={STEP_TAG: str(content["step"]), FORMAT_TAG: FORMAT},
        params=content["params"],
        model_type="initialisation",
    )


def _describe(folder: Path, model_id: str, run_id: str, files: Sequence[str]) -> None:
    """Make `folder` with the files and what MLflow wants beside them."""
    from mlflow.models import Model

    from pipeline.served_model import sizes

    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / FORMAT
        data.mkdir()
        for file in files:
            (data / Path(file).name).symlink_to(file)  # what is linked to is copied, once
        model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
        found = sizes(data)
        if found is not None:
            _save_with_loader(folder, data, model, found)
            return
        shutil.copytree(data, folder / MODEL_FILES)
        model.add_flavor("safetensors", files=sorted(file.name for file in data.iterdir()))
        model.save(str(folder / "MLmodel"))


def _save_with_loader(folder: Path, data: Path, model: Any, sizes: Sizes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's about itself, when this part is imported
        pyfunc = importlib.import_module("mlflow.pyfunc")  # `from mlflow` would put it off

    pyfunc.save_model(
        path=str(folder),
        loader_module=LOADER,
        data_path=str(data),
        mlflow_model=model,
        signature=_signature(sizes),
        input_example=sizes.example(),
        pip_requirements=[f"outerloop=={metadata.version('outerloop')}"],
    )


def _signature(sizes: Sizes) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(values: Any, *name: str) -> TensorSpec:
        return TensorSpec(np.dtype(values.dtype), (-1, *values.shape[1:]), *name)

    example = sizes.example()
    inputs: list[Any] = [spec(values, name) for name, values in example.items()]
    return ModelSignature(Schema(inputs), Schema([spec(example["support_y"])]))
