"""Synthetic recordings in the exact layouts of real ones, and what was put into them."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

BIN_S = 0.001


@dataclass
class SyntheticSession:
    """A free-viewing session as DANDI 000628 stores it; change it, then ``write`` it."""

    name: str = "sub-An_ses-20220105T173929"
    n_images: int = 12
    n_units: int = 5
    n_presentations: int = 40
    seed: int = 0
    rate: float = BIN_S
    chunks: tuple[int, int] | None = None
    unit_names: Sequence[str] | None = None
    image_names: Sequence[str] = ()
    size_px: tuple[int, int] = (80, 60)
    tail_s: float = 1.0
    onset_s: np.ndarray = field(init=False)
    offset_s: np.ndarray = field(init=False)
    image: np.ndarray = field(init=False)
    error_code: np.ndarray = field(init=False)
    raster: np.ndarray = field(init=False)
    fixations: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        n = self.n_presentations
        self.onset_s = np.round(2 + 1.5 * np.arange(n) + rng.uniform(0, 0.3, n), 3)
        self.offset_s = self.onset_s + 0.8
        self.image = np.concatenate(
            [rng.permutation(self.n_images) for _ in range(-(-n // self.n_images))]
        )[:n]
        self.error_code = np.zeros(n)
        if not self.image_names:
            self.image_names = [f"image{i:03d}.png" for i in range(self.n_images)]
        if self.unit_names is None:
            self.unit_names = [str(i + 1) for i in range(self.n_units)]
        n_bins = round((self.offset_s[-1] + self.tail_s) / BIN_S)
        self.raster = rng.poisson(0.02, (n_bins, len(self.unit_names))).astype(np.uint8)
        tuning = rng.gamma(1.0, 0.05, (self.n_images, len(self.unit_names)))
        for onset, image in zip(self.onset_s, self.image, strict=True):
            first = round((onset + 0.05) / BIN_S)
            self.raster[first : first + 150] += rng.poisson(
                tuning[image], (150, len(self.unit_names))
            ).astype(np.uint8)
        self.fixations = self._fixations(rng)

    def _fixations(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One under way at each onset, three during the image, one after it."""
        starts = np.sort((self.onset_s[:, None] + [-0.1, 0.15, 0.35, 0.75, 0.9]).ravel())
        starts = np.round(starts, 4)
        n = len(starts)
        return {
            "start_time": starts,
            "stop_time": starts + 0.15,
            "x": rng.uniform(-4, 4, n),
            "y": rng.uniform(-3, 3, n),
            "trial_id": np.repeat(np.arange(len(self.onset_s)), 5),
        }

    def write(self, folder: Path) -> Path:
        """Write both files; return the one with the rasters."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.nwb"
        with h5py.File(path, "w") as file:
            rasters = file.create_group("processing/ecephys/rasters")
            chunked = {"chunks": self.chunks, "compression": "gzip"} if self.chunks else {}
            rasters.create_dataset("data", data=self.raster, **chunked)
            rasters["starting_time"] = 0.0
            rasters["starting_time"].attrs.update({"rate": self.rate, "unit": "seconds"})
            file["processing/ecephys/unit_names/unit_name"] = list(self.unit_names or ())
        with h5py.File(folder / f"{self.name}_image.nwb", "w") as file:
            self._write_images(file)
        return path

    def _write_images(self, file: h5py.File) -> None:
        n = len(self.onset_s)
        shown = file.create_group("intervals/presentations")
        shown["start_time"], shown["stop_time"] = self.onset_s, self.offset_s
        shown["trial_id"] = np.arange(n, dtype=np.uint32)
        shown["position"] = np.zeros((n, 2))
        shown["latency"] = np.ones((n, 2))
        trials = file.create_group("intervals/trials")
        trials["id"], trials["error_code"] = np.arange(n), self.error_code
        trials["start_time"], trials["stop_time"] = self.onset_s - 0.5, self.offset_s + 0.5
        series = file.create_group("stimulus/presentation/presentations")
        series["data"], series["timestamps"] = self.image.astype(np.uint64), self.onset_s
        templates = file.create_group("stimulus/templates/stimuli")
        templates["external_file"] = [f"Stimuli/{name}" for name in self.image_names]
        templates["dimension"] = np.array(self.size_px)
        # 10 degrees wide on a screen at 0.5 m.
        width_m = 2 * 0.5 * np.tan(np.radians(5))
        templates["field_of_view"] = np.array(
            [width_m, width_m * self.size_px[1] / self.size_px[0]]
        )
        templates["distance"] = 0.5
        for name, values in self.fixations.items():
            file[f"processing/behavior/fixations/{name}"] = values

    def write_images(self, folder: Path) -> Path:
        """Write a picture of random pixels for each image; return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.image_names:
            rng = np.random.default_rng([len(name), *name.encode()])
            pixels = rng.integers(0, 256, (*self.size_px[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        return folder


@dataclass
class SyntheticAssembly:
    """A BrainIO assembly with its table and images, as the public Majaj-Hong data have them."""

    n_objects: int = 8
    n_per_object: int = 5
    n_repetitions: int = 6
    n_it: int = 6
    n_v4: int = 3
    seed: int = 0
    dims: tuple[str, str, str] = ("presentation", "neuroid", "time_bin")
    id_name: str = "image_id"
    image_px: int = 16
    values: np.ndarray = field(init=False)
    presentations: pd.DataFrame = field(init=False)
    neuroids: pd.DataFrame = field(init=False)
    images: pd.DataFrame = field(init=False)
    colours: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        images = pd.DataFrame(
            [
                {
                    "stimulus_id": f"{rng.integers(16**10):010x}",
                    "object_name": f"object{o}",
                    "category_name": f"category{o % 3}",
                    "variation": 3 * (k % 2),
                    "s": 1 + 0.1 * k,
                    "ty": 0.01 * k,
                    "rxy": 10.0 * k,
                    "background_id": f"bg{k}",
                }
                for o in range(self.n_objects)
                for k in range(self.n_per_object)
            ]
        )
        images["filename"] = [
            f"{o}_{i}.png" for o, i in zip(images.object_name, images.stimulus_id, strict=True)
        ]
        self.images = images
        shown = [
            images.assign(repetition=r)[(images.variation == 3) | (r < self.n_repetitions - 2)]
            for r in range(self.n_repetitions)
        ]
        self.presentations = pd.concat(shown).sample(frac=1, random_state=self.seed)
        n = self.n_it + self.n_v4
        self.neuroids = pd.DataFrame(
            {
                "neuroid_id": [f"Chabo_L_M_{i}_{i + 3}" for i in range(n)],
                "animal": ["Chabo" if i % 2 else "Tito" for i in range(n)],
                "region": ["IT"] * self.n_it + ["V4"] * self.n_v4,
            }
        ).sample(frac=1, random_state=self.seed)
        codes = self.presentations.index.to_numpy()
        self.colours = rng.integers(40, 216, (len(images), 3))
        tuning = rng.normal(size=(3, n)) / 40
        signal = self.colours @ tuning + rng.normal(size=(len(images), n))
        self.values = (signal[codes] + rng.normal(size=(len(codes), n))).astype(np.float32)

    def write(self, folder: Path) -> Path:
        """Write assembly, table and zip of images; return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        shown = self.presentations.rename(columns={"stimulus_id": self.id_name})
        array = xr.DataArray(
            self.values[:, :, None],
            dims=("presentation", "neuroid", "time_bin"),
            coords={
                **{c: ("presentation", shown[c].to_numpy()) for c in shown if c != "filename"},
                **{c: ("neuroid", self.neuroids[c].to_numpy()) for c in self.neuroids},
                "time_bin_start": ("time_bin", [70]),
                "time_bin_end": ("time_bin", [170]),
            },
            name="dicarlo.MajajHong2015.public",
        )
        path = folder / "assy_dicarlo_MajajHong2015_public.nc"
        array.transpose(*self.dims).to_netcdf(path, engine="h5netcdf")
        table = self.images[["stimulus_id", "object_name", "filename"]].rename(
            columns={"stimulus_id": self.id_name}
        )
        table.sample(frac=1, random_state=1).to_csv(folder / "stimulus_hvm-public.csv", index=False)
        self._write_images(folder / "stimulus_hvm-public.zip")
        return folder

    def pixels(self, row: int) -> np.ndarray:
        """Picture of random pixels around a colour that the neuroids respond to."""
        noise = np.random.default_rng([self.seed, row]).integers(
            -40, 40, (self.image_px, self.image_px, 3)
        )
        return (self.colours[row] + noise).astype(np.uint8)

    def _write_images(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for row, name in enumerate(self.images.filename):
                buffer = io.BytesIO()
                Image.fromarray(self.pixels(row)).save(buffer, "png")
                archive.writestr(name, buffer.getvalue())
