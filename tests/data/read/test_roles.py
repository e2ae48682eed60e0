"""Facts of columns against their definitions, whatever the blocks in which rows come."""

from __future__ import annotations

import numpy as np
import pytest

from metaad_zoo.data.read.roles import (
    EVEN_STEPS,
    MAX_CATEGORIES,
    MOST_BACKWARD,
    RISING_INTEGERS,
    ColumnFacts,
    Schema,
    Vocabulary,
)

EVEN = "changes by {} in every row"
ORDERED = np.arange(RISING_INTEGERS, dtype=float)
UNEVEN = ORDERED + np.cumsum(np.arange(RISING_INTEGERS) % 3)
SHUFFLED = np.random.default_rng(0).permutation(ORDERED)


def facts_of(values, sizes):
    facts = ColumnFacts("number")
    for block in np.split(values, np.cumsum(sizes)):
        facts.update(block)
    return facts


@pytest.mark.parametrize("sizes", [(), (1,), (2, 0, 1)])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.arange(3.0), EVEN.format(1)),
        (np.arange(2.0), None),
        (np.arange(-3.0, 3), EVEN.format(1)),
        (0.5 * np.arange(EVEN_STEPS), EVEN.format(0.5)),
        (0.5 * np.arange(EVEN_STEPS - 1), None),
        (1e6 + 2.0 * np.arange(EVEN_STEPS), EVEN.format(2)),
        (-2.0 * np.arange(EVEN_STEPS), EVEN.format(-2)),
        (0.1 * np.arange(EVEN_STEPS) + np.eye(EVEN_STEPS)[-1] / 100, None),
        (np.full(EVEN_STEPS, 7.0), None),
        (np.append(np.arange(EVEN_STEPS), np.nan), None),
        (UNEVEN, "whole numbers rise in every row"),
        (UNEVEN[:-1], None),
        (UNEVEN + 0.5, None),
        (np.append(UNEVEN, UNEVEN[-1]), None),
        (SHUFFLED, "numbers the rows"),
        (SHUFFLED + 1000, "numbers the rows"),
        (np.where(SHUFFLED == 3, 4, SHUFFLED), None),
        (SHUFFLED[SHUFFLED > 0], None),
    ],
)
def test_counters_and_clocks_are_known_by_their_steps(values, reason, sizes):
    facts = facts_of(values, sizes)
    if reason is None:
        assert facts.counts is None
    else:
        assert reason in facts.counts
    present = values[~np.isnan(values)]
    assert (facts.rows, facts.low, facts.high) == (len(present), present.min(), present.max())
    assert facts.whole == bool((present == np.round(present)).all())
    assert facts.constant == (len(set(present)) == 1)
    up, down = ((np.diff(present) * sign > 0).sum() for sign in (1, -1))
    assert facts.rises == (up > 0 and down <= MOST_BACKWARD * (up + down))


def test_three_values_tell_that_there_are_more_than_two():
    for values, kept in [([2.0, 1, 2], ["1", "2"]), ([1.5, 1, 3, 2], ["1", "1.5", "2"]), ([np.nan], [])]:
        assert facts_of(np.array(values), ()).values == kept
    assert facts_of(np.array([3.0, 1.0, 2.0, 0.0]), (1, 1)).values == ["3", "1", "0"]
    texts = ColumnFacts("text")
    for block in (["b", "", "a"], ["c", "b"]):
        texts.update(np.array(block))
    assert (texts.rows, texts.values, texts.texts) == (4, ["b", "a", "c"], {"b": 2, "": 1, "a": 1, "c": 1})
    assert not texts.whole
    assert texts.counts is None


def test_a_schema_is_the_same_after_it_was_saved():
    schema = Schema(("x", "y"), {"kind": Vocabulary(("a", "b"))}, "label", "when", {"id": "an identifier"}, 2.5)
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_json(Schema(("x",)).to_json()) == Schema(("x",))
    assert Schema.from_json('["x", "y"]') == Schema(("x", "y"))
    assert schema.features[:2] == ["x", "y"]
    with pytest.raises(ValueError, match="expected the schema of a table"):
        Schema.from_json(schema.to_json().replace('"label": "label"', '"label": 3'))


@pytest.mark.parametrize(
    ("counts", "categories"),
    [
        ({"a": 1, "b": 1}, ("a", "b")),
        ({"a": 1, "b": 1, "c": 1}, None),
        ({"a": 1, "b": 1, "c": 1, "": 4}, None),
        ({"b": 2, "a": 2, "c": 3}, ("c", "a", "b")),
        ({str(i): 1 + (i == 0) for i in range(MAX_CATEGORIES + 1)}, None),
        ({f"{i:02}": 2 for i in range(MAX_CATEGORIES + 1)}, tuple(f"{i:02}" for i in range(MAX_CATEGORIES))),
        ({f"{i:02}": 1 + (i == 0) for i in range(MAX_CATEGORIES)}, tuple(f"{i:02}" for i in range(MAX_CATEGORIES))),
    ],
)
def test_frequent_texts_are_categories_and_others_share_a_column(counts, categories):
    vocabulary = Vocabulary.of(counts)
    assert (vocabulary and vocabulary.categories) == categories
    if vocabulary is not None:
        assert vocabulary.columns("x") == [*(f"x={c}" for c in categories), "x=(other)"]
        texts = np.array([categories[1], "rare", "", categories[0]])
        expected = np.zeros((4, len(categories) + 1))
        expected[0, 1] = expected[1, -1] = expected[3, 0] = 1
        expected[2] = np.nan
        np.testing.assert_array_equal(vocabulary.encode(texts), expected)
