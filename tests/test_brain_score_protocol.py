"""MajajHong2015public.IT-pls, by a config on an assembly, against its definition written out."""

from pathlib import Path

import commands
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from recordings import SyntheticAssembly
from scipy.stats import pearsonr
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

from toolkit.catalog import Catalog
from toolkit.config import load_config
from toolkit.features.store import FeatureStore
from toolkit.plan import make_plan
from toolkit.results import load

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def sweep(config: Path, out: Path, *overrides: str) -> pd.DataFrame:
    words = [w for override in ("executor.kind=inprocess", *overrides) for w in ("--set", override)]
    commands.sweep(config, "--out", out, *words)
    return load(out).results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assembly = SyntheticAssembly(
        n_objects=8, n_per_object=50, n_repetitions=7, n_it=12, n_v4=4, image_px=64
    )
    return assembly.write(tmp_path_factory.mktemp("assembly"))


def presentations(folder: Path) -> xr.DataArray:
    [path] = folder.glob("*.nc")
    with xr.open_dataset(path, engine="h5netcdf") as file:
        [name] = file.data_vars
        array = file[name].load().squeeze("time_bin")
    return array.isel(neuroid=np.flatnonzero(array.region == "IT")).transpose(
        "presentation", "neuroid"
    )


def averaged(array: xr.DataArray) -> pd.DataFrame:
    """Mean over the presentations of each image, sorted by its id; a column per neuroid."""
    frame = pd.DataFrame(array.values.astype(float), columns=array.neuroid_id.values)
    return frame.groupby(array.image_id.values).mean().sort_index()


def literal_score(features: np.ndarray, array: xr.DataArray) -> dict[str, float]:
    """Brain-Score's definitions, one split and one neuroid at a time."""
    responses = averaged(array)
    objects = (
        pd.Series(array.object_name.values, array.image_id.values)
        .groupby(level=0)
        .first()
        .loc[responses.index]
    )
    splitter = StratifiedShuffleSplit(n_splits=10, train_size=0.9, random_state=1)
    medians = []
    for train, test in splitter.split(np.zeros(len(responses)), objects):
        model = PLSRegression(n_components=25, scale=False)
        model.fit(features[train], responses.values[train])
        predicted = model.predict(features[test])
        measured = responses.values[test]
        medians.append(
            np.median(
                [pearsonr(measured[:, j], predicted[:, j])[0] for j in range(predicted.shape[1])]
            )
        )
    ceilings = []
    ids = np.unique(array.repetition.values)
    for first, second in ShuffleSplit(10, train_size=0.5, random_state=1).split(ids):
        halves = [
            averaged(array.isel(presentation=np.flatnonzero(np.isin(array.repetition, ids[half]))))
            for half in (first, second)
        ]
        r = np.array([pearsonr(halves[0][c], halves[1][c])[0] for c in halves[0]])
        ceilings.append(np.median(2 * r / (1 + r)))
    raw, ceiling = np.mean(medians), np.mean(ceilings)
    return {
        "r_median": raw,
        "ceiling_median": ceiling,
        "ceiled_median_2026": raw**2 / ceiling,
        "ceiled_median_2018": (raw / ceiling) ** 2,
        "r_median_sem": np.std(medians) / np.sqrt(len(medians)),
    }


@pytest.mark.slow
def test_the_config_gives_what_the_definition_gives(folder: Path, tmp_path: Path) -> None:
    results = sweep(
        CONFIGS / "majaj_hong_it_pls.yaml",
        tmp_path / "run",
        f"dataset.path={folder}",
        "models=[{library: timm, names: test_resnet, layers: [layer4]}]",
    )
    [store] = (tmp_path / "run" / "features").glob("*.zarr")
    features = FeatureStore.open(store).array("layer4")[...]
    expected = literal_score(np.asarray(features, dtype=float), presentations(folder))
    [row] = results.to_dict("records")
    assert row["status"] == "done"
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, abs=1e-9), column
    assert row["r_median"] > 0.5
    assert row["readout"] == "pls25"
    assert row["region"] == "IT"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_splits", "n_train"),
    [("majaj_hong_object_held_out", 8, 350), ("majaj_hong_variation_held_out", 1, 200)],
)
def test_held_out_objects_and_variations_run(folder, tmp_path, name, n_splits, n_train) -> None:
    results = sweep(
        CONFIGS / f"{name}.yaml",
        tmp_path / "run",
        f"dataset.path={folder}",
        "models=[{library: pixels}]",
        "readouts=[{kind: ridge, n_components: 20}]",
    )
    [row] = results.to_dict("records")
    assert (row["status"], row["n_splits"], row["n_train"]) == ("done", n_splits, n_train)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("nx414", "dataset.path"),
        ("majaj_hong_it_pls", "dataset.path"),
        ("majaj_hong_object_held_out", "dataset.path"),
        ("majaj_hong_variation_held_out", "dataset.path"),
        ("xiao2024", "dataset.sessions"),
    ],
)
def test_protocols_are_planned_without_their_data(tmp_path: Path, name: str, key: str) -> None:
    config, source = load_config(CONFIGS / f"{name}.yaml", [f"{key}={tmp_path / 'absent'}"])
    plan = make_plan(config, source, Catalog(tmp_path / "catalog.json"))
    assert plan.name == name
    assert plan.encode
    assert not plan.datasets[0].is_present
