"""Files of a kind in a folder and below: each real folder and file once, and an account of what is left out."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from metaad_zoo.data.read.account import Account


def list_files(root: Path, endings: Collection[str], account: Account) -> dict[Path, list[Path]]:
    """Files by folder, both sorted, the root first; folders without such files are among them.

    Real folders and files come before symbolic links to them. A link to a folder elsewhere is followed, unless that
    folder holds the root.

    Args:
        root: a folder.
        endings: file endings, such as ``{".png"}``, in lower case.
        account: records files of other kinds, hidden ones, and links.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root, account = Path(folder).resolve(), Account()
        ...     (root / "inside").mkdir()
        ...     for name in ("b.png", "a.PNG", "notes.txt"):
        ...         (root / name).touch()
        ...     files = list_files(root, {".png"}, account)
        ...     [[file.name for file in files[f]] for f in files], len(account)
        ([['a.PNG', 'b.png'], []], 1)
    """
    walk = _Walk(root, endings)
    walk.enter(root)
    walk.follow_links()
    for reason, subjects in walk.left_out.items():
        account.add("left out", str(root), reason, sorted(subjects))
    if walk.followed:
        account.add("guessed", str(root), "links that lead elsewhere are followed", sorted(walk.followed))
    return {folder: sorted(walk.files[folder]) for folder in sorted(walk.files)}


class _Walk:
    def __init__(self, root: Path, endings: Collection[str]) -> None:
        self.root, self.endings = root, endings
        self.files: dict[Path, list[Path]] = {}
        self.left_out: dict[str, list[str]] = {}
        self.followed: list[str] = []
        self._real_root = os.path.realpath(root)
        self._entered: set[str] = set()
        self._real_files: set[str] = set()
        self._links: list[Path] = []

    def enter(self, folder: Path) -> None:
        real = os.path.realpath(folder)
        if real in self._entered:
            self._leave_out(folder, "links to folders that are read already")
            return
        self._entered.add(real)
        self.files[folder] = []
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        below = []
        for entry in ordered:
            path = folder / entry.name
            if entry.name.startswith("."):
                self._leave_out(path, "hidden")
            elif entry.is_symlink():
                self._links.append(path)
            elif entry.is_dir():
                below.append(path)
            elif self._is_wanted(path) and entry.is_file():
                self.files[folder].append(path)
                self._real_files.add(os.path.join(real, entry.name))
            else:
                self._leave_out(path, "files of other kinds")
        for path in below:
            self.enter(path)

    def follow_links(self) -> None:
        while self._links:
            link = self._links.pop(0)
            real = os.path.realpath(link)
            if not os.path.exists(link):
                self._leave_out(link, "links that lead nowhere")
            elif os.path.isdir(link):
                self._follow_to_folder(link, real)
            elif not self._is_wanted(link) or not os.path.isfile(link):
                self._leave_out(link, "files of other kinds")
            elif real in self._real_files:
                self._leave_out(link, "links to files that are read already")
            else:
                self._real_files.add(real)
                self.files[link.parent].append(link)
                self.followed.append(self._name(link))

    def _follow_to_folder(self, link: Path, real: str) -> None:
        if real in self._entered:
            self._leave_out(link, "links to folders that are read already")
        elif Path(real) in Path(self._real_root).parents:
            self._leave_out(link, "links to folders that hold this one")
        else:
            self.followed.append(self._name(link))
            self.enter(link)

    def _is_wanted(self, path: Path) -> bool:
        return path.suffix.lower() in self.endings

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _leave_out(self, path: Path, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(self._name(path))


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder that holds all these files, as they are written."""
    return Path(os.path.commonpath([file.parent.absolute() for file in files]))
