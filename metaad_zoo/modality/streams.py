"""Stream a user's own data as samples in chunks, without holding all of it in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from metaad_zoo.data.chunks import Chunk, rebatched
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions, Schema
from metaad_zoo.data.read.rows import WindowSource
from metaad_zoo.data.read.series import Piece
from metaad_zoo.modality.multimodal import form_of


class SampleStream:
    """Iterable over a user's own data in chunks; each iteration reads it again.

    Args:
        source: a folder of images or an image; a table, or a folder of tables; a series, or a folder of them; lists of
            files; a DataFrame; for several modalities a manifest
            (:class:`metaad_zoo.data.read.manifest.ManifestReader`).
        input_shapes: shape of the model's samples by modality.
        options: what the user says of the columns of tables, series and manifests.
        schemas: column roles of the domain, by modality; a missing one is decided from the first file.
        below: take images of the folders below where a folder has none; for scoring, where no class counts as normal.
        reading: further options of the kind of files, such as ``aspect`` of images.

    Attributes:
        files: files that are read, in order.
        schemas: column roles as given; else those of the first file that names its columns, once rows are read.
        account: what is left out, guessed or changed; complete after one iteration.

    Raises:
        ValueError: there is nothing of the kind.

    CSV, Parquet and manifests are read in blocks, images as they are needed, the arrays of an ``.npz`` out of an
    unpacked copy in the system's temporary folder. Held in memory as a whole is a series for a model that reads series
    of any length, each as one sample.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "rows.csv")
        ...     _ = path.write_text("a,b\\n" + "1,2\\n" * 5000)
        ...     [len(chunk.names) for chunk in SampleStream(path, {"tabular": (2,)})]
        [4096, 904]
    """

    def __init__(
        self,
        source: Any,
        input_shapes: Mapping[str, Sequence[int]],
        options: ColumnOptions = USUAL_OPTIONS,
        schemas: Mapping[str, Schema] | None = None,
        below: bool = False,
        **reading: Any,
    ) -> None:
        self.account = Account()
        self.schemas = dict(schemas or {})
        form = form_of(input_shapes)
        self._chunk = form.chunk
        self._source = form.source(source, input_shapes, options, self.schemas, self.account, below, **reading)
        self.files = self._source.files

    def __iter__(self) -> Iterator[Chunk]:
        return rebatched(self._source.blocks(), self._chunk)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes that the source holds, where it says so."""
        return self._source.classes

    @property
    def ratio(self) -> float | None:
        """Median width by height of images, once they are read."""
        return self._source.ratio

    def original(self, position: int) -> Tensor | None:
        """An image ``(C, H, W)`` uint8, counted from 0, at its own size; None of samples that are no images."""
        return self._source.original(position)

    def series(self, file: Any) -> Iterator[tuple[Piece, float]]:
        """A series, one of the files, in pieces, and the share of all files that is read."""
        assert isinstance(self._source, WindowSource)
        return self._source.series(file)
