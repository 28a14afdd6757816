"""What a train task trains on what, made of its values, its data and the run's networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.session import DataChangedError, Session
from toolkit.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from toolkit.data import NeuralDataset
    from toolkit.models.network_spec import NetworkSpec, TrunkSpec
    from toolkit.training import Assignment, ImageBank, Recipe, Trained

OF_THIS_SWEEP = "trained:"


def assignment_of(
    task: Task, session: Session, recipe: Recipe | None = None, pause_after: int | None = None
) -> Assignment:
    """The training that a task of step "training" or "trial" names.

    Parameters
    ----------
    task, session
        The task, and the job's state.
    recipe
        Instead of the task's own.
    pause_after
        Epochs after which it pauses.

    Raises
    ------
    DataChangedError
        If images or responses are not those that the task was planned for.
    """
    from toolkit.training import Assignment, Recipe

    dataset, spec = dataset_of(task, session), spec_of(task)
    train_rows, _ = rows_of(task, dataset)
    start = _start(task, session)
    return Assignment(
        spec=spec,
        recipe=recipe or Recipe.from_plain(task.params["recipe"]),
        dataset=dataset,
        rows=train_rows,
        bank=bank_of(session, dataset, spec.trunk),
        initial=_trunk_weights(start),
        seen=() if start is None else start.images,
        pause_after=pause_after,
    )


def dataset_of(task: Task, session: Session) -> NeuralDataset:
    """The data set of a train task.

    Raises
    ------
    DataChangedError
        If images or responses are not those that the task was planned for.
    """
    dataset = session.dataset_for_encoding(task)
    if dataset.stimuli.digest() != task.params["stimuli"]:
        raise DataChangedError(
            f"the images of '{dataset.name}' changed since the sweep was planned; "
            "run the sweep again to plan it anew"
        )
    return dataset


def spec_of(task: Task) -> NetworkSpec:
    """The network, its weights as they are to be had here."""
    from toolkit.models.network_spec import NetworkSpec

    plain = task.params["network"]
    if plain["trunk"]["kind"] == "zoo":
        trunk = plain["trunk"]
        here = {"weights": task.options["weights"], "digest": trunk["weights"]}
        plain = {**plain, "trunk": {**trunk, **here}}
    return NetworkSpec.from_plain(plain)


def rows_of(task: Task, dataset: NeuralDataset) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Images that a task may train on, and those that it is tested on."""
    from toolkit.encoding.protocols import outer_splits

    splits = outer_splits(
        task.params["protocol"],
        n_stimuli=len(dataset.stimuli),
        splits=dataset.splits,
        object_names=dataset.object_names,
    )
    return splits[task.params["fold"]]


def bank_of(session: Session, dataset: NeuralDataset, trunk: TrunkSpec) -> ImageBank:
    """The images as a trunk sees them; the run's trainings share them."""
    from toolkit.models.trunks import trunk_preprocessing
    from toolkit.training import ImageBank

    return ImageBank.of(session.run.images_folder, dataset.stimuli, trunk_preprocessing(trunk))


def trained_network(
    where: str, digest: str, session: Session, device: str | torch.device = "cpu"
) -> Trained:
    """A trained network: of a task of this run as that left it, or of a file as it was planned.

    Raises
    ------
    toolkit.models.WeightsChangedError
        If its file is another one now.
    """
    from toolkit.models.trained import load_trained

    if not where.startswith(OF_THIS_SWEEP):
        return load_trained(Path(where), device, digest)
    task_id = where.removeprefix(OF_THIS_SWEEP)
    with as_published(task_id, session) as published:
        return load_trained(session.run.network_path(task_id), device, published, task_id)


@contextmanager
def as_published(task_id: str, session: Session) -> Iterator[str]:
    """Give the hash of the weights that a task left; say what to do if they are gone or others.

    Raises
    ------
    toolkit.models.WeightsChangedError
        If the block raises it, or finds no file.
    """
    from toolkit.models import WeightsChangedError
    from toolkit.results import read_scores

    result = session.run.result_path(task_id)
    try:
        yield read_scores(result)[1]["weights_sha256"]
    except (WeightsChangedError, FileNotFoundError, IsADirectoryError) as error:
        raise WeightsChangedError(
            f"the weights in {session.run.network_path(task_id).parent} are gone, or not those "
            f"that its training left; remove {result} and run the sweep again to train it anew"
        ) from error


def _start(task: Task, session: Session) -> Trained | None:
    where = task.options.get("start")
    return None if where is None else trained_network(where, task.params["start"], session)


def _trunk_weights(start: Trained | None) -> dict[str, torch.Tensor]:
    weights = {} if start is None else start.network.state_dict()
    return {name: value for name, value in weights.items() if name.startswith("trunk.")}
