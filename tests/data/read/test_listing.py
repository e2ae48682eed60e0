"""Files of a folder: each real one once, and an account of the rest."""

from __future__ import annotations

from pathlib import Path

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.listing import common_folder, list_files


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root):
    account = Account()
    files = list_files(root, {".png"}, account)
    names = {str(folder.relative_to(root)): [file.name for file in paths] for folder, paths in files.items()}
    return names, {(kind, reason): subjects for (kind, _, reason), subjects in account.entries.items()}


def test_files_are_sorted_by_folder_and_the_rest_is_accounted_for(tmp_path):
    write(
        *(
            tmp_path / name
            for name in ("b/2.png", "b/1.PNG", "a/c/3.png", "z.png", "a/notes.txt", ".cache/x.png", ".h.png")
        )
    )
    (tmp_path / "folder.png").mkdir()
    names, entries = listed(tmp_path)
    assert list(names.items()) == [
        (".", ["z.png"]),
        ("a", []),
        ("a/c", ["3.png"]),
        ("b", ["1.PNG", "2.png"]),
        ("folder.png", []),
    ]
    assert entries == {
        ("left out", "hidden"): [".cache", ".h.png"],
        ("left out", "files of other kinds"): ["a/notes.txt"],
    }


def test_links_to_files_elsewhere_are_followed_once(tmp_path):
    root = tmp_path / "root"
    write(tmp_path / "outside" / "1.png", tmp_path / "outside" / "notes.txt", root / "own.png")
    for name, target in {
        "a.png": "../outside/1.png",
        "b.png": "../outside/1.png",
        "c.png": "own.png",
        "d.txt": "../outside/notes.txt",
        "e.png": "../outside/notes.txt",
        "f.png": "nowhere.png",
    }.items():
        (root / name).symlink_to(target)
    names, entries = listed(root)
    assert names == {".": ["a.png", "e.png", "own.png"]}
    assert entries == {
        ("left out", "links to files that are read already"): ["b.png", "c.png"],
        ("left out", "files of other kinds"): ["d.txt"],
        ("left out", "links that lead nowhere"): ["f.png"],
        ("guessed", "links that lead elsewhere are followed"): ["a.png", "e.png"],
    }


def test_a_folder_within_a_linked_one_is_read_once(tmp_path):
    """The link enters the outer folder, whose inner one was read by a link of its own."""
    root = tmp_path / "root"
    write(tmp_path / "outer" / "inner" / "1.png", tmp_path / "outer" / "2.png")
    root.mkdir()
    (root / "a").symlink_to("../outer/inner")
    (root / "b").symlink_to("../outer")
    names, entries = listed(root)
    assert names == {".": [], "a": ["1.png"], "b": ["2.png"]}
    assert entries[("left out", "links to folders that are read already")] == ["b/inner"]


def test_the_common_folder_is_the_deepest_that_holds_all():
    assert common_folder([Path("/a/b/1.png"), Path("/a/c/2.png")]) == Path("/a")
    assert common_folder([Path("/a/b/1.png")]) == Path("/a/b")
