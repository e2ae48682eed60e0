"""Run the notebooks and store them with their outputs: `python notebooks/run.py [NAME ...]`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent
TEMPORARY = re.compile(r"/(?:tmp|var/folders)/[\w/.-]*?tmp\w+")


def run(path: Path) -> None:
    """Execute a notebook from top to bottom in its own folder, and store it with its outputs."""
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(book, timeout=900, kernel_name="python3", record_timing=False)
    client.create_kernel_manager()
    client.resources = {"metadata": {"path": str(FOLDER)}}
    client.execute(env={**os.environ, "PYTHONPATH": str(FOLDER.parent)})
    tidy(book)
    nbformat.write(book, path)


def tidy(book: Any) -> None:
    """Drop messages on standard error, names of temporary folders, and the version of Python."""
    book.metadata.pop("language_info", None)
    for cell in (c for c in book.cells if c.cell_type == "code"):
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = TEMPORARY.sub("FOLDER", output.text)
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = TEMPORARY.sub("FOLDER", content)


if __name__ == "__main__":
    for name in sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]:
        run(FOLDER / f"{name}.ipynb")
        print(name)
