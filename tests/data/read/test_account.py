"""Sentences of an account: each kind of note once, with the files that it is true of."""

from __future__ import annotations

import pytest

from metaad_zoo.data.read.account import Account


def account_of(*reasons, subjects=()):
    account = Account()
    for i, reason in enumerate(reasons):
        account.add("left out", f"f{i}.csv", reason, subjects)
    return account


@pytest.mark.parametrize(
    ("reasons", "subjects", "sentence"),
    [
        (["constant"], ["x"], "f0.csv: 'x' left out: constant"),
        (["constant"] * 3, ["x"], "f0.csv, f1.csv, f2.csv: 'x' left out: constant"),
        (["constant"] * 5, ["x"], "f0.csv and 4 more files: 'x' left out: constant"),
        (["7 steps", "8 steps"], [], "f0.csv: 7 steps (likewise, with other numbers, in f1.csv)"),
        (["7 steps", *["8 steps"] * 9], [], "f0.csv: 7 steps (likewise, with other numbers, in 9 more files)"),
    ],
)
def test_files_of_which_the_same_is_said_share_a_sentence(reasons, subjects, sentence):
    account = account_of(*reasons, subjects=subjects)
    assert list(account) == [sentence]
    assert len(account) == 1
    assert [entry["place"] for entry in account.as_json()] == [f"f{i}.csv" for i in range(len(reasons))]


def test_other_columns_and_other_reasons_have_sentences_of_their_own():
    account = account_of("constant", "text", subjects=["V1"])
    account.add("left out", "f2.csv", "constant", ["V2"])
    assert len(list(account)) == len(account) == 3


def test_two_notes_on_one_file_have_a_sentence_each():
    account = Account()
    for n in (3, 4):
        account.add("guessed", "f0.csv", f"{n} rows have the time of the row before them")
    assert [sentence[:14] for sentence in account] == ["f0.csv: 3 rows", "f0.csv: 4 rows"]


def test_numbers_of_gaps_differ_from_file_to_file():
    account = Account()
    for i, gaps in enumerate(([60], [90, 30])):
        names = [f"windows across the gap of {gap} s before row {gap + 2}" for gap in gaps]
        account.add("left out", f"f{i}.csv", "more than 10 s from row to row", names)
    (sentence,) = account
    assert sentence.startswith("f0.csv: 'windows across the gap of 60 s before row 62' left out: more than 10 s")
    assert sentence.endswith("(likewise, with other numbers, in f1.csv)")
