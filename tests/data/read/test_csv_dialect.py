"""How a CSV file is written, inferred from its first bytes, and how its numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metaad_zoo.data.read.csv_dialect import HEAD_BYTES, decimal_separator, is_number, plain_number, read_dialect

FILE = Path("a.csv")


def dialect(text, encoding="utf-8"):
    return read_dialect(FILE, text.encode(encoding))


@pytest.mark.parametrize(
    ("codec", "encoding"),
    [
        ("utf-8", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("cp1252", "cp1252"),
    ],
)
def test_encodings_are_told_apart_and_mentioned(codec, encoding):
    inferred = dialect("größe,b\n1,2\n", codec)
    assert (inferred.encoding, inferred.delimiter) == (encoding, ",")
    expected = () if encoding == "utf-8" else (f"the file is not in UTF-8 and is read as {encoding}",)
    assert inferred.notes == expected


def test_a_character_cut_at_the_end_of_the_head_is_no_other_encoding():
    for cut in (1, 2):
        head = b"a,b\n" + b"1,2\n" * (HEAD_BYTES // 4 - 2) + b"1,2"[: 4 - cut] + "€".encode()[:cut]
        head = b"x" * (HEAD_BYTES - len(head)) + head
        assert read_dialect(FILE, head).encoding == "utf-8"
        assert read_dialect(FILE, head[1:]).encoding == "cp1252", "a shorter file is not cut"


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2,5\n", ";"),
        ("a\tb\n1\t2\n", "\t"),
        ("a|b,c|d\n1|2,3|4\n", "|"),
        ('a,b\n"1,5",2\n', ","),
        ("a;b;c\n1,2;3\n4,5,6;7\n", ";"),
        ("one\n1\n", ","),
    ],
)
def test_the_delimiter_makes_most_columns_of_one_number(text, delimiter):
    assert dialect(text).delimiter == delimiter


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b\n1,2\n", None),
        ("1.5,2\n3,4\n", ("f0", "f1")),
        ("5\n6\n", ("f0",)),
        ("0,1,2\n5,6,7\n", None),
        ("1,2,3\n5,6,7\n", None),
        ("2,3,4\n5,6,7\n", ("f0", "f1", "f2")),
        ("1,a\n5,6\n", None),
    ],
)
def test_a_first_row_of_numbers_is_no_header(text, names):
    inferred = dialect(text)
    assert inferred.names == names
    if names:
        span = f"{names[0]!r} to {names[-1]!r}" if len(names) > 1 else repr(names[0])
        assert inferred.notes == (
            f"row 1 holds numbers where names are expected: there is no header, columns are {span}",
        )


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_files_are_refused(text):
    with pytest.raises(ValueError, match="is empty: expected a header and at least one row"):
        dialect(text)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("a b\n1 2\n", True),
        ("a b\n", False),
        ("a b\n1 x\n", False),
        ("a b\n1 2 3\n", False),
        ("a\n1\n", False),
        ("a b,c\n1,2\n", False),
    ],
)
def test_columns_separated_by_spaces_are_refused(text, refused):
    if refused:
        with pytest.raises(ValueError, match="columns are separated by spaces"):
            dialect(text)
    else:
        dialect(text)


def separator(*cells, delimiter=","):
    return decimal_separator(FILE, delimiter, {"x": np.array(["1", *cells])})


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2.5"], None),
        (["2,5"], ","),
        (["1.234,5"], ","),
        (["0,123"], ","),
        (["1234,567"], ","),
        (["1,2e5"], ","),
        (["1,234,567"], "."),
        (["1,234.5"], "."),
        (["-1,234."], "."),
        (["1,234", "2,5"], ","),
        (["1,234", "1,234.5"], "."),
    ],
)
def test_commas_are_decimal_or_separate_thousands(cells, expected):
    assert separator(*cells) == expected


def test_unclear_commas_are_decimal_only_beside_semicolons():
    assert separator("1,234", delimiter=";") == ","
    with pytest.raises(ValueError, match=r"column 'x', row 2: '1,234' may mean 1234 \(thousands\) or 1\.234"):
        separator("1,234", "5,678")
    with pytest.raises(
        ValueError, match=r"'2,5' \(column 'x', row 2\) has a decimal comma, but '1,234\.5' \(column 'x', row 3\)"
    ):
        separator("2,5", "1,234.5")


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [("1.234,5", ",", "1234.5"), ("1,234.5", ".", "1234.5"), ("-2,5e3", ",", "-2.5e3"), ("nan", ",", "nan")],
)
def test_numbers_are_written_as_python_does(text, decimal, number):
    assert plain_number(text, decimal) == number


@pytest.mark.parametrize(("text", "decimal"), [("1,5", "."), ("1.5", ","), ("12.34,5", ",")])
def test_numbers_of_the_other_separator_are_refused(text, decimal):
    with pytest.raises(ValueError, match="is no number with the decimal separator"):
        plain_number(text, decimal)


@pytest.mark.parametrize(("cell", "is_one"), [("1.5", True), ("-1,5", True), ("1e3", True), ("", False), ("a1", False)])
def test_a_number_has_a_decimal_point_or_comma(cell, is_one):
    assert is_number(cell) is is_one
