"""Hooks of MkDocs: formulas become MathML when the site is built, and each model card becomes a page.

The pages need no script and no network to show their formulas.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
HEAD = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the card of each published checkpoint as `models/<name>.md`, without the head that Hugging Face reads."""
    for card in sorted(CHECKPOINTS.glob("*/README.md")):
        text = HEAD.sub("", card.read_text(encoding="utf-8"))
        files.append(File.generated(config, f"models/{card.parent.name}.md", content=text))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Replace formulas in LaTeX by MathML."""
    return FORMULA.sub(_mathml, content)


def _mathml(formula: re.Match[str]) -> str:
    display = "inline" if formula[1] == "span" else "block"
    return convert(html.unescape(formula[2]).strip(), display=display)
