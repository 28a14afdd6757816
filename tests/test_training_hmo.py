from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import AdaBoostClassifier
from training_problem import bank_of, synthetic

from toolkit.models.network_spec import ModularTrunk, NetworkSpec
from toolkit.training import Objective, Optimizer, Recipe, RecipeError
from toolkit.training.hmo.boosting import choose_best, choose_boosted
from toolkit.training.hmo.search import HmoData, HmoSearch, grow, selection
from toolkit.training.hmo.space import ModuleSpace, sample_modules

BRIEF = Recipe(
    n_epochs=2,
    batch_size=20,
    objectives=(Objective("category"),),
    optimizer=Optimizer("adam", 3e-3),
    validation_share=0,
)
SEARCH = HmoSearch(
    brief=BRIEF,
    final=replace(BRIEF, n_epochs=3, validation_share=0.1, monitor="accuracy"),
    space=ModuleSpace(n_layers=(1, 2), channels=(4, 8)),
    n_modules=4,
    n_chosen=2,
    n_stages=2,
    n_features=1250,
    input_px=32,
    seed=5,
)


def test_a_search_is_made_of_json_values():
    assert HmoSearch.from_plain(SEARCH.to_plain()) == SEARCH


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_chosen": 5}, "n_chosen is 5 of n_modules: 4"),
        ({"n_stages": 0}, "1 or more"),
        ({"selection_share": 1.0}, "selection_share is 1.0"),
        ({"brief": replace(BRIEF, objectives=(Objective("mse"),))}, "object"),
        ({"brief": replace(BRIEF, objectives=(Objective("object"),))}, "object"),
    ],
)
def test_what_is_wrong_is_named(changes, complaint):
    with pytest.raises(RecipeError, match=complaint):
        replace(SEARCH, **changes)


def test_modules_are_different_and_decided_by_the_seed():
    modules = sample_modules(ModuleSpace(), 200, seed=1)
    assert len(set(modules)) == 200
    assert sample_modules(ModuleSpace(), 20, seed=1) == modules[:20]
    assert sample_modules(ModuleSpace(), 20, seed=2) != modules[:20]
    assert {len(module.channels) for module in modules} == {1, 2, 3}
    assert {module.pooling for module in modules} == {"max", "average", "soft"}
    assert {module.normalised for module in modules} == {False, True}
    assert {n for module in modules for n in module.channels} == {16, 32, 64}
    assert {side for module in modules for side in module.kernels_px} == {3, 5, 7}


def test_a_small_space_is_sampled_whole_and_no_further():
    space = ModuleSpace(n_layers=(1, 2), channels=(4, 8), kernels_px=(3,), poolings=("max",))
    assert space.size == 2 * (2 + 4)
    assert len(set(sample_modules(space, 12, seed=0))) == 12
    with pytest.raises(RecipeError, match="the space has 12"):
        sample_modules(space, 13, seed=0)


def test_boosting_prefers_a_weaker_module_that_complements():
    is_right = np.ones((3, 100), dtype=bool)
    is_right[0, :20] = False
    is_right[1, :21] = False
    is_right[2, 60:100] = False
    assert choose_best(is_right, 2).modules == (0, 1)
    boosted = choose_boosted(is_right, 2, n_classes=2)
    assert boosted.modules == (0, 2)
    assert boosted.errors[0] == pytest.approx(0.2)
    # After the first round, images it got wrong weigh as much as all the others together.
    assert boosted.errors[1] == pytest.approx(0.5 * 40 / 80)


class BestColumn(ClassifierMixin, BaseEstimator):
    """Predicts what one column of the features says: the one that errs least."""

    def fit(self, said, labels, sample_weight):
        self.classes_ = np.unique(labels)
        self.column_ = ((said != labels[:, None]) * sample_weight[:, None]).sum(axis=0).argmin()
        return self

    def predict(self, said):
        return said[:, self.column_]


def test_boosting_is_multi_class_adaboost_of_scikit_learn():
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=301)
    # Columns that are right with different probabilities, so that none ties with another.
    is_right = rng.random((301, 8)) < np.linspace(0.5, 0.7, 8)
    said = np.where(is_right, labels[:, None], (labels[:, None] + 1) % 3)
    boosted = AdaBoostClassifier(BestColumn(), n_estimators=4).fit(said, labels)
    choice = choose_boosted(is_right.T, 4, n_classes=3)
    assert choice.modules == tuple(column.column_ for column in boosted.estimators_)
    assert choice.errors == pytest.approx(boosted.estimator_errors_)
    assert choice.modules != choose_best(is_right.T, 4).modules


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(2, 5))
def test_each_module_is_chosen_once_and_the_first_is_the_best(seed, n_chosen, n_classes):
    is_right = np.random.default_rng(seed).random((6, 40)) < 0.7
    choice = choose_boosted(is_right, n_chosen, n_classes)
    assert len(set(choice.modules)) == len(choice.modules) == min(n_chosen, 6)
    assert choice.errors[0] == pytest.approx(choose_best(is_right, 1).errors[0])
    assert all(0 <= error <= 1 for error in choice.errors)


def test_perfect_modules_do_not_break_boosting():
    choice = choose_boosted(np.ones((3, 10), dtype=bool), 3, n_classes=2)
    assert choice.modules == (0, 1, 2)
    assert choice.errors == pytest.approx((0, 0, 0))


@pytest.mark.slow
def test_a_network_is_grown_and_grows_the_same_again(tmp_path):
    dataset = synthetic(80, 40)
    spec = NetworkSpec(ModularTrunk((((sample_modules(SEARCH.space, 1, 0)[0],),),), input_px=32))
    images = HmoData(
        dataset, bank_of(dataset, tmp_path, spec), dataset.splits["train"], dataset.splits["val"]
    )
    fitted, compared = selection(SEARCH, images)
    assert len(compared) == 20
    assert np.array_equal(np.sort(np.concatenate([fitted, compared])), images.train)

    result = grow(SEARCH, images, tmp_path / "run")
    assert set(result.accuracy) == {"best_module", "unboosted", "boosted"}
    assert all(0 <= accuracy <= 1 for accuracy in result.accuracy.values())
    trunk = result.boosted.trained.spec.trunk
    assert [len(stack) for stack in trunk.stacks] == [1, 2]
    assert trunk.stacks[0][0] == trunk.stacks[1][0]
    modules = sample_modules(SEARCH.space, 4, SEARCH.seed)
    assert trunk.stacks[0][0] == tuple(modules[m] for m in result.choices[0].modules)
    source = result.boosted.trained.trunk()
    with torch.no_grad():
        assert source.module(torch.zeros(1, 3, 32, 32)).shape == (1, 1250)

    weights = result.boosted.path.read_bytes()
    (tmp_path / "run" / "boosted").rename(tmp_path / "aside")
    again = grow(SEARCH, images, tmp_path / "run")
    assert again.choices == result.choices
    assert again.accuracy == result.accuracy
    assert again.boosted.path.read_bytes() == weights
