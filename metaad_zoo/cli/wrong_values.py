"""One sentence out of jsonargparse's account of a value of the wrong kind."""

from __future__ import annotations

import re

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping such as {name: value}",
    "list": "a list such as [a, b]",
    "NoneType": "null",
}


def wrong_value(message: str) -> str | None:
    """Which key has which value, and what was expected; None where the message is of something else.

    Args:
        message: nested lines, of which the innermost tell the key's last part and what it takes.

    Example:
        >>> wrong_value('Parser key "trainer.max_epochs":\\n  Expected a <class \\'int\\'>. Got value: many')
        "--trainer.max_epochs is 'many': expected a whole number"
    """
    keys = re.findall(r'Parser key "([\w.]+)":', message)
    if not keys:
        return None
    inner = message[message.rindex(f'Parser key "{keys[-1]}":') :]
    plain = re.search(r"Expected an? (.+?)\. Got value: (.*)", inner)
    union = re.search(r"Subtypes: \[(.+)\]", inner)
    if plain:
        kinds, value = [plain[1]], plain[2]
    elif union and (match := re.search(r"Given value: (.*)", inner)):
        kinds, value = _split(union[1]), match[1]
    else:
        return None
    nested = re.fullmatch(r"NestedArg\(key='.*', val=(.*)\)", value)
    value = nested[1].strip("'") if nested else value.split(". Got value:")[0]
    expected = [text for kind in kinds if (text := _kind(kind)) is not None]
    return f"--{'.'.join(keys)} is {value!r}: expected {' or '.join(dict.fromkeys(expected))}" if expected else None


def _split(kinds: str) -> list[str]:
    """Parts between the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in kinds:
        depth += (letter in "[<") - (letter in "]>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts]


def _kind(kind: str) -> str | None:
    """A type in plain words; None for a class that a command line can't write."""
    name = re.sub(r"<class '([\w.]+)'>", r"\1", kind)
    choices = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", name)
    if choices:
        return " or ".join(choices[1].split(", "))
    return KINDS.get(name.partition("[")[0])
