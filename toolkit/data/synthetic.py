"""Synthetic objects and synthetic neurons whose tuning and noise are known exactly."""

from __future__ import annotations

import colorsys
import json
import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from toolkit.data.dataset import DatasetSize, NeuralDataset
from toolkit.data.errors import DataError
from toolkit.data.rendering import RENDER_VERSION, SOLIDS, ObjectLook, Scene, render
from toolkit.data.stimuli import Stimuli

N_OBJECTS_PER_CATEGORY = 4
REGION = "synthetic-IT"
# Share of a single presentation's response variance that the stimulus decides, least to greatest
# over the neurons. With four repetitions the averaged responses range from .31 to .86.
PRESENTATION_SHARE = (0.1, 0.6)

_SEED_LATENTS, _SEED_BACKGROUND, _SEED_OBJECTS, _SEED_TUNING, _SEED_NOISE = range(5)
# Every latent is uniform over its range; the first two choose the category and the object.
_RANGES = {
    "category": (0.0, 1.0),
    "object": (0.0, 1.0),
    "x": (-0.35, 0.35),
    "y": (-0.35, 0.35),
    "radius": (0.4, 0.8),
    "roll": (-np.pi / 3, np.pi / 3),
    "yaw": (-np.pi / 3, np.pi / 3),
    "pitch": (0.15, 0.75),
    "light": (-np.pi / 3, np.pi / 3),
    "brightness": (0.6, 1.2),
    "contrast": (0.04, 0.16),
}
_LINEAR_FEATURES = ("x", "y", "radius", "brightness", "contrast")
_ANGLE_FEATURES = ("roll", "yaw")


@dataclass(frozen=True)
class _Parameters:
    n_train: int
    n_val: int
    n_neuroids: int
    n_repetitions: int
    n_categories: int
    image_px: int
    seed: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            lowest = {"seed": 0, "n_categories": 2, "image_px": 16}.get(name, 1)
            if value < lowest:
                raise DataError(f"synthetic data: {name} is {value}; write at least {lowest}")
        if self.n_categories > len(SOLIDS):
            raise DataError(
                f"synthetic data: n_categories is {self.n_categories}; "
                f"there are {len(SOLIDS)}: {', '.join(SOLIDS)}"
            )

    @property
    def n_stimuli(self) -> int:
        return self.n_train + self.n_val


def load(
    *,
    n_train: int,
    n_val: int,
    n_neuroids: int,
    n_repetitions: int,
    n_categories: int,
    image_px: int,
    seed: int,
    name: str = "synthetic",
) -> NeuralDataset:
    r"""Make a data set whose answer is known.

    Each image shows one object of one of ``n_categories`` solids at a random place, size, pose
    and light over a random background, all drawn from ``(seed, index)`` alone. Nothing is
    rendered until an image is asked for.

    Neuron :math:`j` responds to presentation :math:`t` of image :math:`i` with

    .. math:: r_{ijt} = b_j + s_j (w_j \cdot z_i + \sigma_j \epsilon_{ijt}),
              \quad \epsilon \sim N(0, 1)

    where :math:`z_i` are the oracle features: category indicators, then the standardised x, y,
    radius, brightness, background contrast, and sine and cosine of roll and yaw. Weights are
    scaled so that :math:`\mathrm{Var}(w_j \cdot z) = 1` over the distribution the images are
    drawn from (not over the images drawn). So the explainable variance of the average over
    :math:`T` repetitions is exactly :math:`1 / (1 + \sigma_j^2 / T)` in that distribution, and
    that is what ``explainable_variance`` holds.

    Parameters
    ----------
    n_train, n_val
        Number of images of each split.
    n_neuroids, n_repetitions
        Number of neurons, and of presentations of each image.
    n_categories
        Number of solids, 2 to 8; each has four objects.
    image_px
        Width and height of an image.
    seed
        Decides everything.
    name
        What tables call the data set; must contain "synthetic".

    Raises
    ------
    DataError
        If a number is out of range or the name does not say that the data are synthetic.
    """
    parameters = _checked(
        name, n_train, n_val, n_neuroids, n_repetitions, n_categories, image_px, seed
    )
    latents = _latents(parameters)
    categories, objects = _categories(latents, n_categories), _objects(latents)
    features, covariance = _oracle_features(latents, categories, n_categories)
    repetitions, explainable_variance = _responses(parameters, features, covariance)
    solids = tuple(SOLIDS)
    tuning = f"{seed}-{n_neuroids}-{n_categories}"  # with its position, all that makes a neuron
    return NeuralDataset(
        name=name,
        stimuli=SyntheticStimuli(parameters, latents),
        responses=repetitions.mean(axis=2, dtype=np.float64),
        repetitions=repetitions,
        neuroid_ids=tuple(f"{REGION}-{i:03d}@{tuning}" for i in range(n_neuroids)),
        regions=(REGION,) * n_neuroids,
        object_names=tuple(f"{solids[c]}-{o}" for c, o in zip(categories, objects, strict=True)),
        category_names=tuple(solids[c] for c in categories),
        splits={"train": np.arange(n_train), "val": np.arange(n_train, n_train + n_val)},
        explainable_variance=explainable_variance,
        oracle_features=features,
    )


def size_of(
    *,
    n_train: int,
    n_val: int,
    n_neuroids: int,
    n_repetitions: int,
    n_categories: int,
    image_px: int,
    seed: int,
    name: str = "synthetic",
) -> DatasetSize:
    """Size of what :func:`load` would give, and its checks of the parameters."""
    parameters = _checked(
        name, n_train, n_val, n_neuroids, n_repetitions, n_categories, image_px, seed
    )
    return DatasetSize(parameters.n_stimuli, n_neuroids, {"train": n_train, "val": n_val})


class SyntheticStimuli(Stimuli):
    """Images rendered when asked for; the same one every time."""

    framed = True

    def __init__(self, parameters: _Parameters, latents: dict[str, np.ndarray]) -> None:
        n_train, n_val = parameters.n_train, parameters.n_val
        self.ids = tuple(
            f"{split}-{row:05d}"
            for split, n in (("train", n_train), ("val", n_val))
            for row in range(n)
        )
        self._parameters = parameters
        self._latents = latents
        self._categories = _categories(latents, parameters.n_categories)
        self._objects = _objects(latents)

    def __getitem__(self, index: int) -> Image.Image:
        """Image ``index`` in mode RGB, ``image_px`` square."""
        index = range(len(self))[operator.index(index)]
        scene = Scene(
            **{name: float(self._latents[name][index]) for name in Scene.__dataclass_fields__}
        )
        seed = self._parameters.seed
        look = _look(seed, int(self._categories[index]), int(self._objects[index]))
        rng = np.random.default_rng([seed, _SEED_BACKGROUND, index])
        return render(look, scene, self._parameters.image_px, rng)

    def _content(self) -> Iterator[bytes]:
        p = self._parameters
        yield json.dumps(["synthetic", RENDER_VERSION, p.n_categories, p.image_px, p.seed]).encode()


def _checked(name: str, *numbers: int) -> _Parameters:
    if "synthetic" not in name:
        raise DataError(f"name {name!r} of synthetic data must contain 'synthetic'")
    return _Parameters(*numbers)


def _latents(parameters: _Parameters) -> dict[str, np.ndarray]:
    """Latent → its value for every image; row ``i`` depends on the seed and ``i`` only."""
    uniform = np.stack(
        [
            np.random.default_rng([parameters.seed, _SEED_LATENTS, i]).random(len(_RANGES))
            for i in range(parameters.n_stimuli)
        ]
    )
    return {
        name: low + (high - low) * column
        for (name, (low, high)), column in zip(_RANGES.items(), uniform.T, strict=True)
    }


def _categories(latents: dict[str, np.ndarray], n_categories: int) -> np.ndarray:
    return (latents["category"] * n_categories).astype(int)


def _objects(latents: dict[str, np.ndarray]) -> np.ndarray:
    return (latents["object"] * N_OBJECTS_PER_CATEGORY).astype(int)


def _look(seed: int, category: int, number: int) -> ObjectLook:
    rng = np.random.default_rng([seed, _SEED_OBJECTS, category, number])
    aspect = rng.random(3, dtype=np.float32)
    colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 0.6), rng.uniform(0.6, 0.95))
    direction = rng.standard_normal(3)
    pattern = rng.uniform(4, 14) * direction / np.linalg.norm(direction)
    return ObjectLook(
        solid=tuple(SOLIDS.values())[category],
        aspect=aspect,
        colour=np.array(colour, dtype=np.float32),
        pattern=pattern.astype(np.float32),
    )


def _oracle_features(
    latents: dict[str, np.ndarray], categories: np.ndarray, n_categories: int
) -> tuple[np.ndarray, np.ndarray]:
    """Oracle features (n_stimuli, d) and their covariance (d, d) in the generating distribution."""
    columns = list(np.eye(n_categories)[categories].T)
    for name in _LINEAR_FEATURES:
        low, high = _RANGES[name]
        columns.append((latents[name] - (low + high) / 2) / ((high - low) / np.sqrt(12)))
    for name in _ANGLE_FEATURES:
        columns.extend(_standardised_sine_cosine(latents[name], limit=_RANGES[name][1]))
    features = np.stack(columns, axis=1)
    covariance = np.eye(features.shape[1])
    # Indicators of k equally likely categories: variance (1 - 1/k)/k, covariance -1/k².
    covariance[:n_categories, :n_categories] = (
        np.eye(n_categories) / n_categories - 1 / n_categories**2
    )
    return features, covariance


def _standardised_sine_cosine(angle: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of an angle uniform over ±limit, scaled to mean 0 and variance 1.

    E sin = 0, E cos = sin(a)/a, E sin² = 1/2 - sin(2a)/4a, E cos² = 1/2 + sin(2a)/4a, and sine
    and cosine are uncorrelated.
    """
    mean_cosine, half_gap = np.sin(limit) / limit, np.sin(2 * limit) / (4 * limit)
    sine = np.sin(angle) / np.sqrt(0.5 - half_gap)
    cosine = (np.cos(angle) - mean_cosine) / np.sqrt(0.5 + half_gap - mean_cosine**2)
    return sine, cosine


def _responses(
    parameters: _Parameters, features: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Presentations, float32 (n_stimuli, n_neuroids, n_repetitions), and explainable variance."""
    n_neuroids, n_repetitions = parameters.n_neuroids, parameters.n_repetitions
    rng = np.random.default_rng([parameters.seed, _SEED_TUNING])
    weights = rng.standard_normal((n_neuroids, features.shape[1]))
    weights[:, : parameters.n_categories] *= 3.0  # category decides about half of the signal
    weights /= np.sqrt(np.einsum("jd,de,je->j", weights, covariance, weights))[:, None]
    share = rng.permutation(np.linspace(*PRESENTATION_SHARE, n_neuroids))
    noise_variance = (1 - share) / share
    baseline, scale = rng.uniform(2, 20, n_neuroids), rng.uniform(1, 5, n_neuroids)

    noise = np.random.default_rng([parameters.seed, _SEED_NOISE]).standard_normal(
        (parameters.n_stimuli, n_neuroids, n_repetitions), dtype=np.float32
    )
    noise *= (scale * np.sqrt(noise_variance)).astype(np.float32)[:, None]
    signal = baseline + scale * (features @ weights.T)
    noise += signal.astype(np.float32)[:, :, None]
    return noise, 1 / (1 + noise_variance / n_repetitions)
