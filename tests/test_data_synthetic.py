"""Synthetic data: what is known about them is true."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from toolkit.data import DataError, NeuralDataset, load, size_of
from toolkit.data.rendering import SOLIDS

PARAMS = {
    "n_train": 12,
    "n_val": 6,
    "n_neuroids": 5,
    "n_repetitions": 3,
    "n_categories": 8,
    "image_px": 64,
    "seed": 3,
}


def make(**changes: int) -> NeuralDataset:
    return load("synthetic", **{**PARAMS, **changes})


def oracle_scores(dataset: NeuralDataset, features: np.ndarray) -> np.ndarray:
    """EV on the val split, per neuron, of least squares fitted on the train split."""
    train, val = dataset.splits["train"], dataset.splits["val"]
    model = LinearRegression().fit(features[train], dataset.responses[train])
    residual = dataset.responses[val] - model.predict(features[val])
    return 1 - residual.var(axis=0) / dataset.responses[val].var(axis=0)


@pytest.mark.parametrize("n_repetitions", [1, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_oracle_regression_recovers_the_explainable_variance(n_repetitions: int, seed: int) -> None:
    dataset = make(n_train=2000, n_val=2000, n_neuroids=60, n_repetitions=n_repetitions, seed=seed)
    scores = oracle_scores(dataset, dataset.oracle_features)
    assert abs(scores.mean() - dataset.explainable_variance.mean()) < 0.02
    assert np.abs(scores - dataset.explainable_variance).max() < 0.08
    shuffled = np.random.default_rng(0).permutation(dataset.oracle_features)
    assert oracle_scores(dataset, shuffled).mean() <= 0.01


def test_six_hundred_images_suffice_on_average() -> None:
    gaps = []
    for seed in range(5):
        dataset = make(n_train=400, n_val=200, n_neuroids=100, n_repetitions=4, seed=seed)
        scores = oracle_scores(dataset, dataset.oracle_features)
        gaps.append(scores.mean() - dataset.explainable_variance.mean())
    assert abs(np.mean(gaps)) < 0.02


def test_oracle_features_have_the_claimed_population_moments() -> None:
    features = make(n_train=20000, n_val=1, n_neuroids=1, n_repetitions=1).oracle_features
    covariance = np.cov(features, rowvar=False)
    expected = np.eye(features.shape[1])
    expected[:8, :8] = np.eye(8) / 8 - 1 / 64
    np.testing.assert_allclose(covariance, expected, atol=0.04)
    np.testing.assert_allclose(features[:, 8:].mean(axis=0), 0, atol=0.04)


def test_noise_is_independent_and_of_the_known_size() -> None:
    dataset = make(n_train=3000, n_val=1, n_neuroids=4, n_repetitions=6)
    noise = dataset.repetitions - dataset.repetitions.mean(axis=2, keepdims=True)
    noise_variance = noise.var(axis=2, ddof=1).mean(axis=0)
    total_variance = dataset.responses.var(axis=0)
    np.testing.assert_allclose(
        1 - noise_variance / 6 / total_variance, dataset.explainable_variance, atol=0.03
    )
    residual = dataset.responses - LinearRegression().fit(
        dataset.oracle_features, dataset.responses
    ).predict(dataset.oracle_features)
    correlation = np.corrcoef(residual, rowvar=False)
    assert np.abs(correlation - np.eye(4)).max() < 0.08


def test_neurons_differ_in_noise_and_more_repetitions_help() -> None:
    few, many = (make(n_neuroids=40, n_repetitions=n) for n in (4, 20))
    assert few.explainable_variance.min() == pytest.approx(0.1 / (0.1 + 0.9 / 4))
    assert few.explainable_variance.max() == pytest.approx(0.6 / (0.6 + 0.4 / 4))
    assert np.all(many.explainable_variance > few.explainable_variance)


def test_responses_are_the_mean_of_the_repetitions() -> None:
    dataset = make()
    assert dataset.repetitions.shape == (18, 5, 3)
    np.testing.assert_allclose(dataset.responses, dataset.repetitions.mean(axis=2), rtol=1e-6)


def test_labels_splits_and_names() -> None:
    dataset = make(n_train=200)
    assert set(dataset.category_names) == set(SOLIDS)
    assert len(set(dataset.object_names)) == 32
    for name, category in zip(dataset.object_names, dataset.category_names, strict=True):
        assert name.startswith(category)
    assert {split: len(index) for split, index in dataset.splits.items()} == {
        "train": 200,
        "val": 6,
    }
    assert "synthetic" in dataset.name
    assert set(dataset.regions) == {"synthetic-IT"}
    assert dataset.stimuli.ids[200] == "val-00000"
    size = size_of("synthetic", **{**PARAMS, "n_train": 200})
    assert (size.n_stimuli, size.n_neuroids) == (206, 5)
    assert size.split_sizes == {"train": 200, "val": 6}


def test_same_parameters_same_everything() -> None:
    one, other = make(), make()
    assert one.stimuli.digest() == other.stimuli.digest()
    assert one.responses_digest() == other.responses_digest()
    for i in (5, 0, 17):  # any order
        np.testing.assert_array_equal(np.asarray(one.stimuli[i]), np.asarray(other.stimuli[i]))
    copy = pickle.loads(pickle.dumps(one.stimuli))
    np.testing.assert_array_equal(np.asarray(copy[4]), np.asarray(one.stimuli[4]))


def test_an_image_depends_on_seed_and_index_only() -> None:
    one, longer, other = make(), make(n_train=20, n_neuroids=2), make(seed=4)
    np.testing.assert_array_equal(np.asarray(one.stimuli[7]), np.asarray(longer.stimuli[7]))
    assert np.any(np.asarray(one.stimuli[7]) != np.asarray(other.stimuli[7]))
    assert np.any(np.asarray(one.stimuli[7]) != np.asarray(one.stimuli[8]))


@pytest.mark.parametrize("change", [{"seed": 4}, {"image_px": 65}, {"n_categories": 7}])
def test_stimulus_digest_follows_what_decides_the_images(change: dict) -> None:
    assert make(**change).stimuli.digest() != make().stimuli.digest()


def test_stimulus_digest_ignores_the_neurons() -> None:
    assert make(n_neuroids=9, n_repetitions=1).stimuli.digest() == make().stimuli.digest()


def test_images_show_an_object_where_the_latents_say() -> None:
    """With a flat background, the pixels that differ from it lie around the object's centre."""
    stimuli = make(n_train=40).stimuli
    stimuli._latents["contrast"][:] = 0
    for i in range(40):
        image = np.asarray(stimuli[i]).astype(float)
        assert image.shape == (64, 64, 3)
        rows, columns = np.nonzero(np.abs(image - np.round(0.45 * 255)).max(axis=2) > 3)
        assert rows.size > 60
        latent = {name: values[i] for name, values in stimuli._latents.items()}
        x, y = (columns + 0.5) / 32 - 1 - latent["x"], 1 - (rows + 0.5) / 32 - latent["y"]
        assert np.hypot(x, y).max() < latent["radius"] * 1.02
        assert abs(np.median(x)) < 0.35 * latent["radius"]


@pytest.mark.parametrize("category", SOLIDS)
def test_solids_are_bounded_and_never_overstep(category: str) -> None:
    """A tracing step is safe if the function is 1-Lipschitz, and positive off the unit ball."""
    solid, rng = SOLIDS[category], np.random.default_rng(0)
    for _ in range(20):
        aspect = rng.random(3, dtype=np.float32)
        points = rng.uniform(-1.2, 1.2, (3, 4000)).astype(np.float32)
        nearby = points + rng.normal(scale=0.02, size=points.shape).astype(np.float32)
        rise = np.abs(solid(nearby, aspect) - solid(points, aspect))
        assert np.all(rise <= 1.02 * np.linalg.norm(nearby - points, axis=0) + 1e-5)
        assert np.all(solid(points, aspect)[np.linalg.norm(points, axis=0) > 1.03] > 0)
        assert solid(points, aspect).min() < 0


def test_categories_look_different() -> None:
    """A nearest-neighbour reader of silhouettes does far better than chance."""
    dataset = make(n_train=300, n_val=60, image_px=32)
    dataset.stimuli._latents["contrast"][:] = 0
    for name in ("x", "y"):
        dataset.stimuli._latents[name][:] = 0
    images = np.stack([np.asarray(dataset.stimuli[i]).astype(float) for i in range(360)])
    masks = (np.abs(images - 115).max(axis=3) > 3).reshape(360, -1).astype(float)
    labels = np.array(dataset.category_names)
    distance = ((masks[300:, None] - masks[None, :300]) ** 2).sum(axis=2)
    assert np.mean(labels[:300][distance.argmin(axis=1)] == labels[300:]) > 0.5


def test_construction_renders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image was rendered")

    monkeypatch.setattr("toolkit.data.synthetic.render", refuse)
    dataset = make(n_train=500, n_val=100, n_neuroids=168, n_repetitions=4, image_px=128)
    dataset.stimuli.digest()
    with pytest.raises(AssertionError, match="was rendered"):
        dataset.stimuli[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_val": 0}, "n_val is 0"),
        ({"n_neuroids": 0}, "n_neuroids is 0"),
        ({"n_categories": 1}, "n_categories is 1.*at least 2"),
        ({"n_categories": 9}, "n_categories is 9.*ellipsoid"),
        ({"seed": -1}, "seed is -1"),
        ({"name": "majaj"}, "'majaj'.*'synthetic'"),
    ],
)
def test_parameters_out_of_range(change: dict, message: str) -> None:
    for function in (load, size_of):
        with pytest.raises(DataError, match=message):
            function("synthetic", **{**PARAMS, **change})


def test_ids_are_those_of_neurons_with_the_same_tuning() -> None:
    known = set(make().neuroid_ids)
    assert set(make(n_train=20, n_val=7, image_px=32, n_repetitions=2).neuroid_ids) == known
    for change in ({"seed": 4}, {"n_neuroids": 6}, {"n_categories": 4}):
        assert not known & set(make(**change).neuroid_ids)
