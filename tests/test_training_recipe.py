import subprocess
import sys

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from toolkit.training import Objective, Optimizer, Recipe, RecipeError, Schedule
from toolkit.training.descent import make_optimizer, make_scheduler

PLAIN = {
    "n_epochs": 60,
    "batch_size": 32,
    "objectives": [{"kind": "mse", "weight": 0.3}, {"kind": "object"}],
    "optimizer": {"kind": "adamw", "lr": 1e-4, "weight_decay": 1e-5},
    "schedule": {"kind": "step", "step_epochs": 15, "factor": 0.5},
    "patience": 7,
}


def test_a_recipe_is_made_of_json_values():
    recipe = Recipe.from_plain(PLAIN)
    assert recipe.objectives == (Objective("mse", 0.3), Objective("object"))
    assert recipe.optimizer == Optimizer("adamw", 1e-4, 1e-5)
    assert recipe.augmentation.flip is False and recipe.augmentation.shift_px == 0
    assert Recipe.from_plain(recipe.to_plain()) == recipe


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_epoch": 3}, "n_epoch"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"batch_size": "32"}, "batch_size: .*integer"),
        ({"objectives": []}, "at least one"),
        ({"objectives": [{"kind": "mse"}, {"kind": "mse"}]}, "each kind once"),
        ({"objectives": [{"kind": "mse", "weight": 0}]}, "nothing would be learned"),
        ({"objectives": [{"kind": "mse", "weight": -1}]}, "weight is -1"),
        ({"objectives": [{"kind": "msee"}]}, r"objectives.0.kind"),
        ({"optimizer": {"kind": "adam", "momentum": 0.9}}, "momentum is for sgd"),
        ({"optimizer": {"lr": 0}}, "lr is 0"),
        ({"schedule": {"kind": "onecycle"}}, "warmup_epochs is 0"),
        ({"schedule": {"warmup_epochs": 60}}, "n_epochs is 60"),
        ({"schedule": {"factor": 2}}, "factor is 2"),
        ({"validation_share": 0}, "nothing to monitor"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"objectives": [{"kind": "object"}], "monitor": "ev"}, "no objective is on neurons"),
        ({"objectives": [{"kind": "mse"}], "monitor": "accuracy"}, "no objective is on classes"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0"),
        ({"augmentation": {"shift_px": -1}}, "shift_px is -1"),
    ],
)
def test_what_is_wrong_is_named(changes, complaint):
    with pytest.raises(RecipeError, match=complaint):
        Recipe.from_plain({**PLAIN, **changes})


def rates(schedule, n_epochs, n_steps=1, kind="sgd"):
    recipe = Recipe(n_epochs, optimizer=Optimizer(kind, lr=0.5), schedule=schedule)
    optimizer = make_optimizer(recipe.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    scheduler = make_scheduler(recipe, optimizer, n_steps)
    found = []
    for _ in range(n_epochs * n_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "of_torch"),
    [
        (Schedule("constant"), lambda optimizer: StepLR(optimizer, 100, 1.0)),
        (Schedule("step", 4, 0.3), lambda optimizer: StepLR(optimizer, 4, 0.3)),
        (Schedule("cosine"), lambda optimizer: CosineAnnealingLR(optimizer, 12)),
    ],
)
def test_schedules_are_those_of_torch(schedule, of_torch):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = of_torch(optimizer)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(schedule, 12) == pytest.approx(expected)


def test_a_warm_up_grows_to_the_full_rate():
    found = rates(Schedule("step", 10, 0.1, warmup_epochs=3), 12)
    assert found == pytest.approx([0.125, 0.25, 0.375, *[0.5] * 7, 0.05, 0.05])


def test_onecycle_peaks_at_the_end_of_its_warm_up():
    found = rates(Schedule("onecycle", warmup_epochs=2), 10, n_steps=5)
    assert found[0] == pytest.approx(0.5 / 25)
    assert max(found) == pytest.approx(0.5)
    assert found.index(max(found)) == 2 * 5 - 1
    assert found[-1] < 1e-3 * found[0]


@pytest.mark.parametrize("kind", ["adam", "adamw", "nadam", "sgd"])
def test_as_many_numbers_are_counted_as_the_optimizer_keeps(kind):
    for momentum in (0.0, 0.9) if kind == "sgd" else (0.0,):
        spec = Optimizer(kind, momentum=momentum)
        weight = torch.nn.Parameter(torch.zeros(100))
        optimizer = make_optimizer(spec, [weight])
        weight.grad = torch.ones(100)
        optimizer.step()
        kept = [v for v in optimizer.state[weight].values() if torch.is_tensor(v)]
        assert spec.numbers_per_weight == 3 + sum(v.numel() == 100 for v in kept)


def test_recipes_are_read_without_torch():
    code = (
        "import toolkit.training, toolkit.models.network_spec, sys; "
        "toolkit.training.Recipe.from_plain({'n_epochs': 1}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
