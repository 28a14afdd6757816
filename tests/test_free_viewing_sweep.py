"""From NWB files, a folder of images and a table of labels to scores, in one config."""

from pathlib import Path

import pandas as pd
import pytest
from recordings import SyntheticSession
from test_brain_score_protocol import sweep

from toolkit.catalog import Catalog
from toolkit.config import load_config
from toolkit.plan import make_plan
from toolkit.yaml_source import ConfigError

CONFIG = """\
extends: {d4}
name: free-viewing-synthetic
dataset:
  name: synthetic-sessions
  sessions: {folder}/sessions
  images: {folder}/images
  session_table: {folder}/areas.csv
  label_table: {folder}/labels.csv
  regions: [V4, AIT]
  frame: {{mode: letterbox, size_px: 64}}
models:
  - {{library: pixels}}
  - {{library: timm, names: test_resnet, layers: [layer2]}}
readouts: [{{kind: ridge, n_components: 10}}]
"""
D4 = Path(__file__).resolve().parents[1] / "configs" / "reports" / "D4.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sessions of different images, sizes and areas."""
    common = {"n_images": 40, "n_presentations": 120, "n_units": 4}
    first = SyntheticSession(**common)
    names = [f"image{i:03d}.jpg" for i in range(20, 60)]
    second = SyntheticSession(
        name="sub-Bf_ses-20211114T152023",
        seed=1,
        image_names=[*first.image_names[20:], *names[20:]],
        size_px=(50, 90),
        **common,
    )
    first.write_images(tmp_path / "images" / "wide")
    second.image_names, kept = second.image_names[20:], second.image_names
    second.write_images(tmp_path / "images" / "tall")
    second.image_names = kept
    for session in (first, second):
        session.write(tmp_path / "sessions")
    (tmp_path / "areas.csv").write_text(
        "Session,Bank,Array ID,Hemisphere,Region\nAn220105,0,1,L,V4\nBf211114,0,2,R,AIT\n"
    )
    shown = sorted({*first.image_names, *kept} - {"image007.png"})
    labels = ["face" if i % 4 == 0 else "non-face" for i in range(len(shown))]
    splits = ["val" if i % 5 == 0 else "train" for i in range(len(shown))]
    table = pd.DataFrame({"filename": shown, "label": labels, "split": splits})
    table.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


OF_FIXATIONS = (
    "dataset.align=fixation",
    "dataset.frame=null",
    "protocol={kind: kfold, n_splits: 2, by: object}",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "align"), [("inprocess", "image"), ("inprocess", "fixation"), ("local", "image")]
)
def test_one_config_from_recordings_to_scores(
    folder: Path, tmp_path: Path, executor: str, align: str
) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(CONFIG.format(d4=D4, folder=folder))
    overrides = OF_FIXATIONS if align == "fixation" else ()
    results = sweep(config, tmp_path / "run", f"executor.kind={executor}", *overrides)
    assert (results["status"] == "done").all()
    assert len(results) == 2
    assert (results["region"] == "V4+AIT").all()
    assert (results["n_neurons"] == 8).all()
    assert (results["n_neurons_scored"] == 8).all()
    neurons = pd.read_parquet(tmp_path / "run" / "neurons.parquet")
    assert set(neurons["region"]) == {"V4", "AIT"}
    assert neurons["ceiling"].notna().all() == (align == "image")


def test_folds_that_divide_the_fixations_on_an_image_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(CONFIG.format(d4=D4, folder=folder))
    for protocol in ("{kind: kfold}", "{kind: stratified}"):
        changes = [*OF_FIXATIONS[:2], f"protocol={protocol}"]
        with pytest.raises(ConfigError, match=r"protocol.*write protocol: {kind: kfold, by: obj"):
            make_plan(*load_config(config, changes), Catalog(tmp_path / "catalog.json"))
