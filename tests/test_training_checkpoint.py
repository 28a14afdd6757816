import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.training import Checkpoints, OtherTrainingError

IDENTITY = {"recipe": {"lr": 0.1, "kinds": ["mse"]}, "seed": 1}


def state(value):
    return {"weights": torch.full((1000,), float(value)), "row": [{"epoch": value, "best": None}]}


def test_the_last_state_is_read_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", IDENTITY)
    assert checkpoints.load() is None
    for value in range(3):
        checkpoints.save(state(value))
    found = Checkpoints(tmp_path / "new", IDENTITY).load()
    assert torch.equal(found["weights"], state(2)["weights"])
    assert found["row"] == [{"epoch": 2, "best": None}]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path, damage, caplog):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    content = bytearray(checkpoints.last.read_bytes())
    if damage == "flip":
        where = content.index(np.full(4, 2.0, np.float32).tobytes())
        content[where + 100] ^= 1
    broken = {"flip": content, "truncate": content[:-200], "empty": b"", "text": b"no zip"}
    checkpoints.last.write_bytes(broken[damage])
    with caplog.at_level(logging.WARNING):
        found = checkpoints.load()
    assert found["row"][0]["epoch"] == 1
    assert str(checkpoints.last) in caplog.text
    checkpoints.before.write_bytes(b"also broken")
    assert checkpoints.load() is None


def test_objects_in_a_checkpoint_are_not_made(tmp_path):
    checkpoints = Checkpoints(tmp_path / "training", IDENTITY)
    torch.save({"identity": "{}", "state": Touch(tmp_path / "ran")}, checkpoints.last)
    assert checkpoints.load() is None
    assert not (tmp_path / "ran").exists()


class Touch:
    """Pickles to a call that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_crash_between_the_renames_loses_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1))
    checkpoints.last.replace(checkpoints.before)
    assert checkpoints.load()["row"][0]["epoch"] == 1


def test_a_failed_write_leaves_the_last_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1))
    with pytest.raises(Exception, match=r"pickle|local object"):
        checkpoints.save({"unpicklable": lambda: None})
    assert checkpoints.load()["row"][0]["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    Checkpoints(tmp_path, IDENTITY).save(state(1))
    other = {"recipe": {"lr": 0.2, "kinds": ["mse"]}, "seed": 1}
    with pytest.raises(OtherTrainingError, match=r"recipe.lr is 0.1, not 0.2\. Train in another"):
        Checkpoints(tmp_path, other).load()
    assert Checkpoints(tmp_path, IDENTITY).load() is not None


def test_removed_checkpoints_are_gone(tmp_path):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    checkpoints.remove()
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []
