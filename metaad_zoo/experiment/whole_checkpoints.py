"""Checkpoints of a training that stay whole: written beside, synced and renamed, and read with a fallback."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from metaad_zoo.atomic_write import replacing


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a kill at any moment leaves the earlier file or the new one, never a part of one.

    Lightning writes to the system's temporary folder and moves the file. If that folder is on another file system, the
    move is a copy into the earlier file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it can't be written; the error names the file and a remedy, and the earlier file is still whole.
            TypeError: storage options are given.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for stale in path.parent.glob(f"{path.stem}.*.part{path.suffix}"):  # of a process that was killed
                stale.unlink(missing_ok=True)
            with replacing(path, sync=True) as beside:
                beside.write_bytes(content.getbuffer())
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint {path} can't be written ({error.strerror}); --ckpt_path last resumes from the last "
                "whole one",
            ) from error
