"""Column roles: which columns of a table or series are features, and which are labels, times, counters or identifiers.

A role is decided once, from a column's name and content, when a support set or a training file is read. It is kept with
the detector (:class:`Schema`), so that data to be scored are read in the same way.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.labels import ANOMALOUS_WORDS, NORMAL_WORDS, is_label_name
from metaad_zoo.registry import unknown_name

Missing = Literal["refuse", "drop", "impute"]

INDEX_NAMES = frozenset(["", "Unnamed: 0", "__index_level_0__"])
"""What pandas calls an index without a name in CSV and Parquet."""

TIME_WORDS = frozenset("timestamp datetime time date t ts epoch unixtime".split())
"""Words of a name that make a column of rising numbers a time."""

TIME_ROWS, MOST_BACKWARD = 4, 0.1
"""For that there must be so many rows, and at most this share of their steps may go back."""

IDENTIFIER_WORDS = frozenset("id ids uuid guid idx rowid".split())
IDENTIFIER_NAMES = frozenset("index row no nr number key seq counter record row_number record_number #".split())
"""Words of a name, and whole names, that make a column of whole numbers an identifier."""

MAX_CATEGORIES = 20
"""Categories of a column of text that get a column of their own; the rarer ones share one more, ``(other)``."""

MOST_TEXTS = 100_000
"""A column with more different texts than this names its rows."""

RISING_INTEGERS = 8
"""So many rows of strictly rising whole numbers make a counter; by chance they are in order once in 40,320."""

EVEN_STEPS = 5
"""So many rows at exactly even steps make a counter or a clock; whole numbers at steps of 1 need 3."""


SERIES_ROWS = 32
"""Shorter series show no counter by their content: a few steps of a signal may rise evenly."""


@dataclass(frozen=True)
class Vocabulary:
    """Categories of a column of text, which becomes a column of 0 and 1 for each, and one for all others.

    Attributes:
        categories: those with a column of their own, the most frequent first.
    """

    categories: tuple[str, ...]

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Vocabulary | None:
        """The vocabulary for texts with these counts; None where the texts name the rows.

        Example:
            >>> Vocabulary.of({"red": 3, "blue": 5, "": 1})
            Vocabulary(categories=('blue', 'red'))
        """
        filled = {category: n for category, n in counts.items() if category}
        rows = sum(filled.values())
        if len(filled) == rows >= 3 or (len(filled) > MAX_CATEGORIES and len(filled) > rows / 2):
            return None
        return cls(tuple(sorted(filled, key=lambda c: (-filled[c], c))[:MAX_CATEGORIES]))

    def columns(self, name: str) -> list[str]:
        """Names of the columns that the column ``name`` becomes."""
        return [f"{name}={c}" for c in (*self.categories, "(other)")]

    def encode(self, texts: np.ndarray) -> np.ndarray:
        """One-hot columns ``(rows, columns)`` float64; NaN where the text is missing."""
        encoded = np.zeros((len(texts), len(self.categories) + 1))
        for i, category in enumerate(self.categories):
            encoded[:, i] = texts == category
        encoded[:, -1] = ~encoded.any(1)
        encoded[texts == ""] = np.nan
        return encoded


@dataclass(frozen=True)
class ColumnOptions:
    """A user's options for the columns of a table or series.

    Args:
        label: the column of labels; None looks for a usual name (:data:`metaad_zoo.data.read.labels.LABEL_NAMES`).
        time: the column of times; None looks for one.
        ignore: columns that are left out.
        columns: the features, where these alone are to be used; None takes all that are no label, time, counter or
            identifier.
        decimal: ``","`` where numbers in a CSV have decimal commas, ``"."`` where commas separate thousands; None
            infers it from the numbers.
        missing: what to do about missing and infinite values: ``"refuse"``; ``"drop"`` the rows; ``"impute"``: keep
            them as NaN, which networks read as the support's centre.
    """

    label: str | None = None
    time: str | None = None
    ignore: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    decimal: str | None = None
    missing: Missing = "impute"

    def __post_init__(self) -> None:
        if self.missing not in ("refuse", "drop", "impute"):
            raise unknown_name("policy for missing values:", self.missing, ("refuse", "drop", "impute"))
        if self.decimal not in (None, ",", "."):
            raise ValueError(f"decimal separator {self.decimal!r}: expected ',' or '.'")

    @property
    def named(self) -> list[str]:
        """All columns that the user names."""
        return [n for n in (self.label, self.time, *self.ignore, *(self.columns or ())) if n is not None]


USUAL_OPTIONS = ColumnOptions()


@dataclass(frozen=True)
class Schema:
    """Roles and features of the columns of a domain.

    Attributes:
        numbers: columns of numbers that are features, in order.
        categories: columns of text that are features.
        label: the column of labels, or None.
        time: the column of times, or None.
        ignored: columns that are not used, with the reason.
        step: usual seconds (or units of the time column) from one row to the next; None where it is not known.
    """

    numbers: tuple[str, ...]
    categories: Mapping[str, Vocabulary] = field(default_factory=dict)
    label: str | None = None
    time: str | None = None
    ignored: Mapping[str, str] = field(default_factory=dict)
    step: float | None = None

    @property
    def features(self) -> list[str]:
        """Names of the columns of numbers that the features become, in order."""
        return [*self.numbers, *(c for name, v in self.categories.items() for c in v.columns(name))]

    def to_json(self) -> str:
        """As text, for a checkpoint."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Back from :meth:`to_json`.

        Raises:
            ValueError: the text is no schema.
        """
        try:
            parts = json.loads(text)
            if isinstance(parts, list):  # names alone, as detectors were saved up to version 0.1
                return cls(tuple(map(str, parts)))
            categories = {str(n): Vocabulary(tuple(map(str, v["categories"]))) for n, v in parts["categories"].items()}
            ignored = {str(n): str(reason) for n, reason in parts["ignored"].items()}
            label, time, step = parts["label"], parts["time"], parts["step"]
            if not all(x is None or isinstance(x, str) for x in (label, time)):
                raise TypeError("names of columns are texts")
            return cls(tuple(map(str, parts["numbers"])), categories, label, time, ignored, step and float(step))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"expected the schema of a table as JSON ({type(error).__name__}: {error})") from error


@dataclass
class ColumnFacts:
    """Facts about a column's content, collected block by block.

    Attributes:
        kind: ``"number"``, ``"text"`` or ``"time"``.
        rows: number of rows with a value.
        low: the smallest number; NaN without any.
        high: the largest.
        texts: counts of the texts of a column of text, up to :data:`MOST_TEXTS`.
        values: up to three different values, as texts, which tell columns of two values.
    """

    kind: Literal["number", "text", "time"]
    rows: int = 0
    low: float = np.nan
    high: float = np.nan
    texts: Counter[str] = field(default_factory=Counter)
    values: list[str] = field(default_factory=list)
    _missing: bool = False
    _whole: bool = True
    _up: int = 0
    _down: int = 0
    _strictly: bool = True
    _step: float | None = None
    _even: bool = True
    _last: float | None = None
    _sum: float = 0.0
    _squares: float = 0.0

    def update(self, values: np.ndarray) -> None:
        """Add the next rows: float64, or texts."""
        if self.kind == "text":
            if len(self.texts) <= MOST_TEXTS:
                self.texts.update(values.tolist())
            self.rows += int((values != "").sum())
            self._add_values(dict.fromkeys(values[values != ""].tolist()))
            return
        numbers = values[np.isfinite(values)]
        self._missing |= len(numbers) < len(values)
        if not len(numbers):
            return
        self.rows += len(numbers)
        self.low, self.high = np.fmin(self.low, numbers.min()), np.fmax(self.high, numbers.max())
        if len(self.values) < 3:
            self._add_values(dict.fromkeys(map(number_text, np.unique(numbers)[:3])))
        if self._whole and bool((numbers == np.round(numbers)).all()):
            from_low = numbers - (self.low if self._last is None else self._first)
            self._sum, self._squares = self._sum + from_low.sum(), self._squares + np.square(from_low).sum()
        else:
            self._whole = False
        self._follow(numbers)

    _first: float = 0.0

    def _add_values(self, values: Mapping[str, object]) -> None:
        self.values += [v for v in values if v not in self.values][: 3 - len(self.values)]

    def _follow(self, numbers: np.ndarray) -> None:
        """Whether the numbers rise, and at even steps."""
        chain = numbers if self._last is None else np.concatenate([[self._last], numbers])
        if self._last is None:
            self._first = float(self.low)
        steps = np.diff(chain)
        self._last = float(numbers[-1])
        if not len(steps):
            return
        self._up, self._down = self._up + int((steps > 0).sum()), self._down + int((steps < 0).sum())
        self._strictly &= bool((steps > 0).all())
        if self._step is None:
            self._step = float(steps[0])
        rounding = 4 * np.finfo(np.float64).eps * max(abs(self.low), abs(self.high)) + 1e-9 * abs(self._step)
        self._even &= self._step != 0 and bool((np.abs(steps - self._step) <= rounding).all())

    @property
    def constant(self) -> bool:
        """Whether there are no two different values."""
        return len(self.values) < 2

    @property
    def rises(self) -> bool:
        """Whether numbers hardly ever fall; where they do, a time column is out of order."""
        return self.kind != "text" and self._up > 0 and self._down <= MOST_BACKWARD * (self._up + self._down)

    @property
    def whole(self) -> bool:
        """Whether all numbers are whole."""
        return self.kind == "number" and self._whole and self.rows > 0

    @property
    def counts(self) -> str | None:
        """Why the content alone shows a counter or a clock; None where it does not."""
        if self.kind != "number" or self._missing:
            return None
        if self._even and self._step is not None:
            if self.rows >= (3 if self._step == 1 and self.whole else EVEN_STEPS):
                return f"it changes by {self._step:g} in every row, as a counter or clock does"
        elif self.whole and self._strictly and self.rows >= RISING_INTEGERS:
            return "its whole numbers rise in every row, as those of a counter do"
        if self.whole and self.rows >= RISING_INTEGERS and self._numbers_rows():
            return "it numbers the rows"
        return None

    def _numbers_rows(self) -> bool:
        """Whether whole numbers are a permutation of successive ones, judged by their sum and sum of squares."""
        n, low = self.rows, self.low - self._first
        if self.high - self.low != n - 1:
            return False
        steps = low + np.arange(n, dtype=np.float64)
        return bool(self._sum == steps.sum() and self._squares == np.square(steps).sum())


def number_text(number: float) -> str:
    """A number as the shortest text that stands for no other.

    Example:
        >>> number_text(1.0), number_text(4711000001.0), number_text(0.1)
        ('1', '4711000001', '0.1')
    """
    return repr(float(number) + 0.0).removesuffix(".0")  # + 0.0: -0 is 0


def words(name: str) -> set[str]:
    """Words of a column's name in lower case.

    Example:
        >>> sorted(words("customerID")), sorted(words("Time (s)"))
        (['customer', 'id'], ['s', 'time'])
    """
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return {w for w in re.split(r"[^a-z0-9]+", apart.lower()) if w}


def is_time_name(name: str) -> bool:
    """Whether a column is called as times usually are."""
    return bool(words(name) & TIME_WORDS)


def _is_clock(name: str, fact: ColumnFacts) -> bool:
    return is_time_name(name) and fact.rises and fact.rows >= TIME_ROWS


def is_identifier_name(name: str) -> bool:
    """Whether a column is called as row numbers and identifiers usually are."""
    return bool(words(name) & IDENTIFIER_WORDS) or name.strip().lower().replace(" ", "_") in IDENTIFIER_NAMES


def decide_roles(
    path: Path,
    facts: Mapping[str, ColumnFacts],
    options: ColumnOptions,
    account: Account,
    series: bool = False,
    may_be_none: bool = False,
) -> Schema:
    """Give each column its role, and note those that are no features.

    Args:
        path: the file, named in messages and the account.
        facts: content of each column, in the order of the file.
        options: what the user says; it comes before name and content.
        account: records what is left out or guessed.
        series: rows are time steps: text is left out, categories included.
        may_be_none: whether there may be no feature.

    Raises:
        ValueError: a column that the user names is not there; a column may be a label or not; no feature is left.
    """
    for kind, name in [("label column", options.label), ("time column", options.time)]:
        if name is not None and name not in facts:
            raise unknown_name(f"{kind} of {path}:", name, facts)
    for name in options.named:
        if name not in facts:
            raise unknown_name(f"column of {path}:", name, facts)
    label = options.label or _label(path, facts, options, account, series)
    time = options.time or _time(facts, options, label)
    ignored: dict[str, str] = {}
    numbers: list[str] = []
    categories: dict[str, Vocabulary] = {}
    for name, fact in facts.items():
        if name in (label, time):
            continue
        reason = _why_no_feature(name, fact, options, series)
        if reason is not None:
            ignored[name] = reason
        elif fact.kind == "text":
            vocabulary = Vocabulary.of(fact.texts)
            assert vocabulary is not None  # else there is a reason
            categories[name] = vocabulary
        else:
            numbers.append(name)
    _tell(path, facts, Schema(tuple(numbers), categories, label, time, ignored), options, account)
    if not numbers and not categories and not may_be_none:
        raise ValueError(
            f"{path} has no column to learn from; it has {list(facts)[:20]}: expected columns of numbers"
            f"{'' if series else ' or of few categories'} beside labels, times and counters; name them by --columns"
        )
    return Schema(tuple(numbers), categories, label, time, ignored)


def _label(
    path: Path, facts: Mapping[str, ColumnFacts], options: ColumnOptions, account: Account, series: bool
) -> str | None:
    """The column that name and content show to hold labels; ``y`` may be a coordinate of a series."""
    spoken_for = {*options.ignore, *(options.columns or ()), options.time}
    names = [n for n in facts if n not in spoken_for and is_label_name(n) and not (series and n.lower() == "y")]
    likely = [n for n in names if len(facts[n].values) < 3 and facts[n].rows]
    label_words = NORMAL_WORDS | ANOMALOUS_WORDS
    for name in likely:
        values = [v.strip().lower() for v in facts[name].values]
        if set(values) <= label_words and (len(values) == 2 or set(values) <= NORMAL_WORDS):
            return name
        if len(values) == 2:
            raise ValueError(
                f"{path}: is column {name!r} with the values {facts[name].values} a label? If so, write 0 (normal) and "
                f"1 (anomalous) and say --label {name}; if it is to be left out, --ignore {name}; if it is data, name "
                "all columns of data by --columns"
            )
    for name in names:
        if 2 < len(set(facts[name].texts) or facts[name].values) <= MAX_CATEGORIES:
            account.add(
                "guessed", path.name, "as data, although labels are often called so (--label or --ignore)", [name]
            )
    return None


def _time(facts: Mapping[str, ColumnFacts], options: ColumnOptions, label: str | None) -> str | None:
    spoken_for = {*options.ignore, *(options.columns or ()), label}
    times = [n for n, f in facts.items() if f.kind == "time" and n not in spoken_for]
    times += [n for n, f in facts.items() if n not in spoken_for and f.kind == "number" and _is_clock(n, f)]
    return next(iter(times), None)


def _why_no_feature(name: str, fact: ColumnFacts, options: ColumnOptions, series: bool) -> str | None:
    """Why a column is no feature; None where it is one."""
    if options.columns is not None:
        if name not in options.columns:
            return "not among the columns asked for"
        if fact.kind != "text" or (not series and Vocabulary.of(fact.texts) is not None):
            return None
    if name in options.ignore:
        return "as asked for"
    if fact.kind == "time":
        return "a time"
    if name in INDEX_NAMES and fact.kind == "number":
        return "an index"
    if fact.kind == "text":
        if series:
            return "text; turn it into numbers if it matters"
        if len(fact.texts) > MOST_TEXTS or Vocabulary.of(fact.texts) is None:
            return "texts that differ from row to row: an identifier"
        return None
    if _is_clock(name, fact):
        return "a time"
    if is_identifier_name(name) and fact.whole and len(fact.values) > 2:
        return "an identifier"
    return None if series and fact.rows < SERIES_ROWS else fact.counts


def _tell(
    path: Path, facts: Mapping[str, ColumnFacts], schema: Schema, options: ColumnOptions, account: Account
) -> None:
    if schema.label is not None and options.label is None:
        reason = "as the label, 0 normal and 1 anomalous (--label, --ignore or --columns say otherwise)"
        account.add("guessed", path.name, reason, [schema.label])
    if schema.time is not None and options.time is None:
        account.add("left out", path.name, "a time (--columns names the columns of data)", [schema.time])
    for name, reason in schema.ignored.items():
        account.add("left out", path.name, reason, [name])
    constant = [n for n in schema.numbers if facts[n].constant and facts[n].rows]
    if constant:
        account.add("guessed", path.name, "as constant: other values count as one spread above or below", constant)
    empty = [n for n in schema.numbers if not facts[n].rows]
    if empty:
        account.add("guessed", path.name, "as empty: nothing is known of what has no value", empty)
