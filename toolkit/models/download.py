"""Fetch a weights file over the network, with its hash checked, or say quickly what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlparse

from toolkit.download import TIMEOUT_S, Digest, DownloadError, file_digest
from toolkit.download import download as fetch_file
from toolkit.models.spec import WeightsUnavailableError

# The files timm's hub repositories hold their weights in, in its order of preference.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def torch_cache() -> Path:
    """Where torch keeps downloaded checkpoints: ``$TORCH_HOME/hub/checkpoints``."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints"


def hash_prefix_of(url: str) -> str:
    """First digits of the SHA-256 that torch's file names carry (``resnet50-11ad3fa6.pth``)."""
    found = re.search(r"-([a-f0-9]{8,})\.", Path(urlparse(url).path).name)
    return found.group(1) if found else ""


def download(url: str, folder: Path, sha256_prefix: str) -> Path:
    """The file of ``url`` in ``folder``, fetched unless it is already there with the right hash.

    Unlike ``torch.hub.download_url_to_file`` it gives up quickly on a silent server, goes on where
    an earlier transfer broke off, and checks files found in the cache.

    Raises
    ------
    WeightsUnavailableError
        If it cannot be fetched, or has another hash.
    """
    target = folder / Path(urlparse(url).path).name
    expected = Digest("sha256", sha256_prefix) if sha256_prefix else None
    try:
        return fetch_file(url, target, expected=expected)
    except DownloadError as error:
        raise WeightsUnavailableError(
            f"{error}. Put the file at {target} (TORCH_HOME moves that folder), or write weights: "
            "/path/to/file.pth"
        ) from error


def download_from_hub(hub_id: str) -> Path:
    """The weights file of a Hugging Face repository, from its cache or over the network.

    The hub's client waits about 20 s per file where there is no network; one request
    without retries decides here whether it is worth asking it.

    Raises
    ------
    WeightsUnavailableError
        If it is neither cached nor reachable, or has another hash than the hub says.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    for name in _HUB_FILES:
        cached = try_to_load_from_cache(hub_id, name)
        if isinstance(cached, str) and _is_intact(Path(cached)):
            return Path(cached)
    try:
        return _fetch_from_hub(hub_id)
    except Exception as error:  # the client's errors have no base class in common over its versions
        folder = f"models--{hub_id.replace('/', '--')}"
        raise WeightsUnavailableError(
            f"{' or '.join(_HUB_FILES)} of the Hugging Face repository {hub_id} could not be "
            f"fetched from {constants.ENDPOINT}: {error}. Copy the folder {folder} from the cache "
            f"of a machine that has it into {constants.HF_HUB_CACHE} (HF_HOME moves that folder), "
            "or write weights: /path/to/model.safetensors"
        ) from error


def hub_hash_of(path: Path) -> str:
    """SHA-256 of a large file in the hub's cache, which is named after it; empty of others."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else ""


def _is_intact(path: Path) -> bool:
    """Whether a file of the hub's cache is what its name says; if not it is removed."""
    try:
        _require_hub_hash(path, hub_hash_of(path))
    except OSError:
        return False
    return True


def _fetch_from_hub(hub_id: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for name in _HUB_FILES:
        try:
            about = get_hf_file_metadata(hf_hub_url(hub_id, name), timeout=TIMEOUT_S)
        except EntryNotFoundError:
            continue
        path = Path(hf_hub_download(hub_id, name))
        _require_hub_hash(path, about.etag or "")
        return path
    raise FileNotFoundError("the repository has no such file")


def _require_hub_hash(path: Path, etag: str) -> None:
    """Refuse a large file whose content is not its ETag, which is its SHA-256 on the hub."""
    if not re.fullmatch("[0-9a-f]{64}", etag):
        return
    found = file_digest(path)
    if found != etag:
        path.resolve().unlink()
        path.unlink()
        raise OSError(f"the file has SHA-256 {found}, not {etag}: refused")
