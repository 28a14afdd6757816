from importlib.util import find_spec

import pytest

from benchmarks.train import Case, compare


def test_every_loop_is_timed_on_the_same_images():
    case = Case("resnet18", "cpu", image_px=32, batch_size=4, n_batches=2)
    floor, toolkit, lightning = compare(case, n_rounds=2)
    assert [r.system for r in (floor, toolkit, lightning)] == ["floor", "toolkit", "Lightning"]
    assert (lightning.status == "ok") == bool(find_spec("lightning"))
    for record in (floor, toolkit, lightning):
        assert record.case == "resnet18, cpu, float32, 2 x 4 images"
        if record.status == "ok":
            assert record.images_per_second * record.seconds == pytest.approx(8)
    assert floor.ratio_to_floor == 1
    assert toolkit.ratio_to_floor > 0
