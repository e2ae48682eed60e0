"""Checkpoints in Hugging Face repositories: ``pip install 'metaad_zoo[hub]'``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metaad_zoo.zoo.manifest import CONFIG, MANIFEST, WEIGHTS, read_manifest
from metaad_zoo.zoo.published import FILES, PAPERS
from metaad_zoo.zoo.reading import TEXT_LIMIT, WEIGHTS_LIMIT, YAML_LIMIT, CheckpointError
from metaad_zoo.zoo.remote import CACHE_VARIABLE, cache_folder
from metaad_zoo.zoo.transfer import in_time

PREFIX = "hf://"
_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+?))?(?:@(?P<revision>[\w./-]+))?/?")


def fetch_from_hub(address: str, papers: bool = False) -> Path:
    """The folder of a checkpoint in a Hugging Face repository, in huggingface_hub's cache.

    All its files are of one commit.

    Args:
        address: ``hf://owner/repository``, with ``/folder`` and ``@revision`` behind it where they are needed.
        papers: its card and figures too, where there are any.

    Raises:
        CheckpointError: huggingface_hub is not installed, there is no such repository or file, the network fails, a
            file is too large, or the files have not come within ``METAAD_FETCH_TIMEOUT`` seconds.
    """
    return in_time(lambda: _fetch(address, papers), address)


def _fetch(address: str, papers: bool) -> Path:
    parts = _ADDRESS.fullmatch(address)
    if parts is None or ".." in address:
        raise CheckpointError(f"{address}: expected hf://owner/repository, or hf://owner/repository/folder@revision")
    with _hugging_face(address) as hub:
        place: dict[str, Any] = {
            "repo_id": parts["repo"],
            "subfolder": parts["folder"],
            "endpoint": os.environ.get("HF_ENDPOINT"),
        }
        cache = cache_folder() / "hub" if os.environ.get(CACHE_VARIABLE) else None  # huggingface_hub's own
        commit: str | None = parts["revision"]

        def get(name: str, limit: int) -> Path:
            nonlocal commit
            url = hub.hf_hub_url(**place, filename=name, revision=commit)
            facts = hub.get_hf_file_metadata(url)
            if facts.size is None or facts.size > limit:
                raise CheckpointError(
                    f"{address}: {name} has {facts.size} bytes, expected at most {limit:,}: not fetched"
                )
            commit = facts.commit_hash or commit
            return Path(hub.hf_hub_download(**place, filename=name, revision=commit, cache_dir=cache))

        folder = get(MANIFEST, TEXT_LIMIT).parent
        expected = read_manifest(folder)["sha256"]
        get(WEIGHTS, WEIGHTS_LIMIT)
        if CONFIG in expected:
            get(CONFIG, YAML_LIMIT)
        for name in PAPERS if papers else ():
            with suppress(hub.errors.EntryNotFoundError):
                get(name, TEXT_LIMIT)
    return folder


def push_to_hub(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a checkpoint folder to a Hugging Face repository, made if it is not there.

    Who uploads is known to huggingface_hub, by ``hf auth login`` or the variable ``HF_TOKEN``.

    Args:
        folder: checkpoint folder, verified before the upload.
        repository: ``owner/name``.
        private: create a new repository as private.

    Returns:
        The address under which it loads again, with the commit.

    Raises:
        CheckpointError: the folder is damaged, huggingface_hub is not installed, or the upload fails.
    """
    from metaad_zoo.zoo.checkpoint import load_checkpoint

    load_checkpoint(folder)
    with _hugging_face(repository) as hub:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        api.create_repo(repository, private=private, exist_ok=True)
        names = [name for name in FILES if (folder / name).is_file()]
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=names, commit_message="Checkpoint of metaad_zoo"
        )
    return f"{PREFIX}{repository}@{done.oid}"


@contextmanager
def _hugging_face(address: str) -> Iterator[Any]:
    """The module huggingface_hub; its errors are raised as :class:`CheckpointError`."""
    try:
        import huggingface_hub  # an extra, and slow to import
    except ImportError as error:
        raise CheckpointError(
            f"{address}: Hugging Face repositories need `pip install 'metaad_zoo[hub]'` ({error})"
        ) from error
    try:
        yield huggingface_hub
    except CheckpointError:
        raise
    except Exception as error:  # of huggingface_hub, of its HTTP library, of the file system
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{address}: Hugging Face says {type(error).__name__}: {reason}") from error
