"""Columns of other data matched with those of a domain: which are missing, left out, or carried along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.labels import is_label_name
from metaad_zoo.data.read.roles import INDEX_NAMES, ColumnOptions, Schema, is_identifier_name, is_time_name


def carried_columns(names: Sequence[str], schema: Schema, options: ColumnOptions) -> tuple[str, ...]:
    """Columns of data to be scored that say which sample a row is: times, identifiers, counters.

    Args:
        names: all columns of the data.
        schema: schema of the domain.
        options: what the user says of the columns.
    """
    read = {*schema.numbers, *schema.categories, schema.label, options.label}
    not_extra = {*read, *INDEX_NAMES}
    unread = [name for name in names if name not in not_extra and not is_label_name(name)]
    return tuple(name for name in unread if _why_extra(name, "number", schema, False) is not None)


def _why_extra(name: str, kind: str, schema: Schema, series: bool) -> str | None:
    """Why a column that a domain's schema does not know may be passed over; None where it may not."""
    if name in schema.ignored:
        return schema.ignored[name]
    if name in (schema.label, schema.time):
        return "a label" if name == schema.label else "a time"
    if name in INDEX_NAMES:
        return "an index"
    if is_label_name(name):
        return "a label"
    if is_time_name(name) or kind == "time":
        return "a time"
    if series and kind == "text":
        return "text; turn it into numbers if it matters"
    return "an identifier" if is_identifier_name(name) else None


def column_order(path: Path, kinds: Mapping[str, str], schema: Schema, account: Account, series: bool) -> None:
    """Refuse columns that are not those of a domain; tell those that are left out.

    Args:
        path: file that has the columns.
        kinds: ``"number"``, ``"time"`` or ``"text"`` by name of column.
        schema: columns of the domain.
        account: account to which the columns left out are added.
        series: whether rows are time steps; text is then never a channel.

    Raises:
        ValueError: a feature is missing, or there is a column of unknown meaning; they are named.
    """
    wanted = [*schema.numbers, *schema.categories]
    missing = [n for n in wanted if n not in kinds]
    reasons = {n: _why_extra(n, kind, schema, series) for n, kind in kinds.items() if n not in wanted}
    unknown = [n for n, reason in reasons.items() if reason is None]
    if missing or unknown:
        differences = [f"missing {missing[:10]}"] if missing else []
        differences += [f"not known {unknown[:10]}"] if unknown else []
        ignore = ", ignore the unknown ones with --ignore" if unknown else ""
        raise ValueError(
            f"{path}: the columns are not those of the support set: {', '.join(differences)}: rename them{ignore}, or "
            "adapt again"
        )
    for name, reason in reasons.items():
        account.add("left out", path.name, str(reason), [name])
