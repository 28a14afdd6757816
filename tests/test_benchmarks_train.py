import pytest

from benchmarks.train import Case, compare


def test_both_loops_are_timed_on_the_same_images():
    case = Case("resnet18", "cpu", image_px=32, batch_size=4, n_batches=2)
    floor, toolkit = compare(case, n_turns=1)[:2]
    assert (floor.system, toolkit.system) == ("floor", "toolkit")
    for record in (floor, toolkit):
        assert record.case == "resnet18, cpu, float32, 2 x 4 images"
        assert record.images_per_second * record.seconds == pytest.approx(8)
        assert record.status == "ok"
    assert floor.ratio_to_floor == 1
    assert toolkit.ratio_to_floor == toolkit.seconds / floor.seconds
