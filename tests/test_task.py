"""A task's id: what it depends on, and what it does not."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.task import Task, TaskKind, json_digest

TASK = Task(
    kind=TaskKind.ENCODE,
    params={"layer": "layer4", "readout": {"kind": "ridge", "alphas": [1.0, 10.0]}},
    inputs=("extract-0123456789ab",),
    label="resnet50 layer4 ridge",
    columns={"model": "resnet50"},
    options={"device": "cpu"},
    more_columns=({"model": "resnet50 by another name"},),
)


def test_how_and_where_a_task_runs_is_not_part_of_its_id() -> None:
    how = {"options": {"device": "cuda"}, "inputs": ()}
    other = replace(TASK, label="x", columns={}, more_columns=(), **how)
    assert other.id == TASK.id


def test_what_decides_the_result_is_part_of_its_id() -> None:
    assert replace(TASK, params={**TASK.params, "layer": "layer3"}).id != TASK.id
    assert replace(TASK, kind=TaskKind.EXTRACT).id != TASK.id


def test_a_task_survives_its_file() -> None:
    assert Task.from_dict(json.loads(json.dumps(TASK.to_dict()))) == TASK


def test_an_edited_file_is_refused() -> None:
    raw = TASK.to_dict()
    raw["params"] = {**raw["params"], "layer": "layer1"}
    with pytest.raises(ValueError, match="was edited"):
        Task.from_dict(raw)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert json_digest(value) == json_digest(backwards)


def test_nan_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_digest({"alpha": float("nan")})
