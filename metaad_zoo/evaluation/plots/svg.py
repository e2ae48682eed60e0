"""Figures as self-contained SVG that takes text colour, width and fonts from the page."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from metaad_zoo.evaluation.plots.style import INK, drawing

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
COLOUR_SCHEMES = "svg{color:#1b1f24}@media(prefers-color-scheme:dark){svg{color:#e6e8eb}}"


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """An ``<svg>`` element for an HTML page.

    Args:
        figure: drawn within :func:`drawing`.
        name: prefix of the ids, unique on the page.
        label: text for screen readers.
    """
    root = _tree(figure, name)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", f"max-width:{1.4 * float(root.attrib['viewBox'].split()[2]):.0f}px")
    for element in root.iter():  # HTML needs no namespace, and so the page names no address at all
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
    return ElementTree.tostring(root, encoding="unicode")


def standalone_svg(figure: Figure) -> str:
    """An SVG file that is dark on light ground and light where its reader prefers dark."""
    ElementTree.register_namespace("", SVG)
    root = _tree(figure, "figure")
    _, _, width, height = root.attrib["viewBox"].split()
    root.set("width", f"{width}pt")
    root.set("height", f"{height}pt")
    style = ElementTree.Element(f"{{{SVG}}}style")
    style.text = COLOUR_SCHEMES
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _tree(figure: Figure, name: str) -> ElementTree.Element:
    written = io.StringIO()
    with drawing():
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(written.getvalue())
    for part in ("metadata", "defs"):  # the first names addresses; the second holds a style for all that is on a page
        for element in root.findall(f"{{{SVG}}}{part}"):
            root.remove(element) if part == "metadata" or element.find(f"{{{SVG}}}style") is not None else None
    root.attrib = {"viewBox": root.attrib["viewBox"], "stroke-linejoin": "round", "stroke-linecap": "butt"}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == HREF:
                del element.attrib[key]
                element.set("href", value.replace("#", f"#{name}-", 1))
            elif key != "d":
                value = value.replace("url(#", f"url(#{name}-")
                element.set(key, re.sub(INK, "currentColor", value, flags=re.IGNORECASE))
    return root
