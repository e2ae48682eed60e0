"""Kinds of awkward support sets, by form of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from detectors import samples

from metaad_zoo.modality import get_modality

SHOTS, MANY = 6, 2000
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A support set and what is then scored.

    Attributes:
        support: samples by modality.
        query: samples by modality.
        labels: labels of the support; None: all normal.
        may_tie: whether equal scores are right, because the query is one sample, or black images alone.
    """

    support: Arrays
    query: Arrays
    labels: list[int] | None = None
    may_tie: bool = False


KINDS: dict[str, Callable[[str], Task]] = {}


def kind(make: Callable[[str], Task]) -> Callable[[str], Task]:
    """Add a kind of support, a function of the form of samples."""
    KINDS[make.__name__.replace("_", " ")] = make
    return make


def query(form: str) -> Arrays:
    """Three samples of the domain, then three ever farther from it."""
    parts = [samples(form, 3, 7), *(samples(form, 1, 8, shift) for shift in (1.0, 2.0, 4.0))]
    return {m: np.concatenate([part[m] for part in parts]) for m in parts[0]}


def ordinary(form: str, **changes: Any) -> Task:
    return Task(**{"support": samples(form, SHOTS), "query": query(form), **changes})


def changed(form: str, change: Callable[[np.ndarray], Any], of_query: bool = True) -> Task:
    """The ordinary task with every array changed."""
    task = ordinary(form)
    support = {m: change(x) for m, x in task.support.items()}
    return Task(support, {m: change(x) for m, x in task.query.items()} if of_query else task.query)


def columnwise(form: str, change: Callable[[np.ndarray], Any], of_query: bool = True) -> Task:
    """As :func:`changed`, for the modalities whose values have no bounds; images stay as they are."""
    task = ordinary(form)
    unbounded = [m for m in task.support if get_modality(m).value_range is None or form in ("image", "audio")]
    parts = [{m: change(x) if m in unbounded else x for m, x in p.items()} for p in (task.support, task.query)]
    return Task(parts[0], parts[1] if of_query else task.query)


@kind
def one_sample(form: str) -> Task:
    return ordinary(form, support=samples(form, 1))


@kind
def two_samples(form: str) -> Task:
    return ordinary(form, support=samples(form, 2))


@kind
def all_identical(form: str) -> Task:
    return ordinary(form, support={m: x.repeat(SHOTS, 0) for m, x in samples(form, 1).items()})


@kind
def all_zero(form: str) -> Task:
    return ordinary(form, support={m: np.zeros_like(x) for m, x in samples(form, SHOTS).items()})


@kind
def all_anomalous(form: str) -> Task:
    return ordinary(form, labels=[1] * SHOTS)


@kind
def all_unlabelled(form: str) -> Task:
    return ordinary(form, labels=[-1] * SHOTS)


@kind
def one_normal_among_anomalies(form: str) -> Task:
    return ordinary(form, labels=[0] + [1] * (SHOTS - 1))


@kind
def one_unlabelled_among_anomalies(form: str) -> Task:
    return ordinary(form, labels=[-1] + [1] * (SHOTS - 1))


@kind
def wrong_number_of_labels(form: str) -> Task:
    return ordinary(form, labels=[0] * (SHOTS + 1))


@kind
def a_constant_column(form: str) -> Task:
    def fix(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[..., 0] = 0.5
        return x

    return changed(form, fix, of_query=False)


@kind
def values_of_1e30(form: str) -> Task:
    return columnwise(form, lambda x: x * np.float32(1e30))


@kind
def the_largest_float32(form: str) -> Task:
    largest = np.float32(np.finfo(np.float32).max / 8)
    return columnwise(form, lambda x: np.clip(x, -8, 8) * largest)


@kind
def values_of_1e_minus_30(form: str) -> Task:
    task = columnwise(form, lambda x: x * np.float32(1e-30))
    return Task(task.support, task.query, may_tie=form in ("image", "audio"))  # all black


@kind
def mixed_1e30_and_1e_minus_30(form: str) -> Task:
    def mix(x: np.ndarray) -> np.ndarray:
        return x * np.where(np.arange(x.shape[-1]) % 2, 1e30, 1e-30).astype(np.float32)

    return columnwise(form, mix)


@kind
def one_value_of_1e30(form: str) -> Task:
    def spoil(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x.reshape(-1)[0] = 1e30
        return x

    return columnwise(form, spoil, of_query=False)


@kind
def float64_of_1e200(form: str) -> Task:
    return columnwise(form, lambda x: torch.from_numpy(x.astype(np.float64) * 1e200))


@kind
def float64_array_of_1e200(form: str) -> Task:
    return columnwise(form, lambda x: x.astype(np.float64) * 1e200)


@kind
def offset_of_1e8(form: str) -> Task:
    return columnwise(form, lambda x: x.astype(np.float64) + 1e8)


@kind
def float64(form: str) -> Task:
    return changed(form, lambda x: x.astype(np.float64))


@kind
def float16(form: str) -> Task:
    return changed(form, lambda x: x.astype(np.float16))


@kind
def bfloat16_tensor(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(x).bfloat16())


@kind
def uint8(form: str) -> Task:
    return changed(form, _in_bytes)


@kind
def uint8_tensor(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(_in_bytes(x)))


@kind
def int64(form: str) -> Task:
    return columnwise(form, lambda x: (100 * x).astype(np.int64))


@kind
def booleans(form: str) -> Task:
    return changed(form, lambda x: x > np.arange(x.shape[-1]) / x.shape[-1])


@kind
def complex_numbers(form: str) -> Task:
    return changed(form, lambda x: x.astype(np.complex64))


@kind
def texts(form: str) -> Task:
    return changed(form, lambda x: x.astype(str).astype(object))


@kind
def objects_of_numbers(form: str) -> Task:
    return changed(form, lambda x: x.astype(object))


@kind
def nested_lists(form: str) -> Task:
    return changed(form, lambda x: x.tolist())


@kind
def masked_array(form: str) -> Task:
    return changed(form, lambda x: np.ma.masked_array(x, np.arange(x.size).reshape(x.shape) % 7 == 0))


@kind
def not_contiguous(form: str) -> Task:
    return changed(form, lambda x: np.repeat(x, 2, -1)[..., ::2][::-1])


@kind
def not_contiguous_tensor(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(np.repeat(x, 2, 0))[::2].mT.contiguous().mT)


@kind
def broadcast_tensor(form: str) -> Task:
    return ordinary(form, support={m: torch.from_numpy(x).expand(SHOTS, *x.shape[1:]) for m, x in _one(form).items()})


@kind
def read_only_array(form: str) -> Task:
    def lock(x: np.ndarray) -> np.ndarray:
        x.flags.writeable = False
        return x

    return changed(form, lock)


@kind
def big_endian(form: str) -> Task:
    return changed(form, lambda x: x.astype(">f4"))


@kind
def requires_gradient(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(x).requires_grad_())


@kind
def inference_tensor(form: str) -> Task:
    def infer(x: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return torch.from_numpy(x) + 0

    return changed(form, infer)


@kind
def sparse_tensor(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(x).to_sparse())


@kind
def scipy_sparse_matrix(form: str) -> Task:
    return changed(form, lambda x: scipy.sparse.csr_matrix(x.reshape(len(x), -1)), of_query=False)


@kind
def ragged_lists(form: str) -> Task:
    return changed(form, lambda x: [row[: i + 1].tolist() for i, row in enumerate(x.reshape(len(x), -1))], False)


@kind
def float8_tensor(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(x).to(torch.float8_e4m3fn))


@kind
def on_another_device(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(x).to("cuda" if torch.cuda.is_available() else "meta"), False)


@kind
def query_on_another_device(form: str) -> Task:
    task = ordinary(form)
    device = "cuda" if torch.cuda.is_available() else "meta"
    return Task(task.support, {m: torch.from_numpy(x).to(device) for m, x in task.query.items()})


@kind
def wrong_channel_count(form: str) -> Task:
    return changed(form, lambda x: np.concatenate([x, x], 1 if x.ndim == 4 else -1), of_query=False)


@kind
def query_of_wrong_channel_count(form: str) -> Task:
    task = changed(form, lambda x: np.concatenate([x, x], 1 if x.ndim == 4 else -1))
    return Task(samples(form, SHOTS), task.query)


@kind
def wrong_channel_count_tensor(form: str) -> Task:
    return changed(form, lambda x: torch.from_numpy(np.concatenate([x, x], 1 if x.ndim == 4 else -1)), of_query=False)


@kind
def longer(form: str) -> Task:
    return changed(form, lambda x: np.concatenate([x, x], 2 if x.ndim == 4 else 1), of_query=False)


@kind
def query_longer(form: str) -> Task:
    task = changed(form, lambda x: np.concatenate([x, x], 2 if x.ndim == 4 else 1))
    return Task(samples(form, SHOTS), task.query)


@kind
def shorter(form: str) -> Task:
    return changed(form, lambda x: x[..., : x.shape[-1] // 2] if x.ndim != 3 else x[:, : x.shape[1] // 2])


@kind
def query_shorter(form: str) -> Task:
    return Task(samples(form, SHOTS), shorter(form).query)


@kind
def one_axis_too_few(form: str) -> Task:
    return changed(form, lambda x: x[0], of_query=False)


@kind
def one_axis_too_many(form: str) -> Task:
    return changed(form, lambda x: x[None], of_query=False)


@kind
def a_scalar(form: str) -> Task:
    return changed(form, lambda x: np.float32(1.0), of_query=False)


@kind
def some_nan(form: str) -> Task:
    return changed(form, _with_gaps)


@kind
def some_nan_in_the_query(form: str) -> Task:
    return Task(samples(form, SHOTS), {m: _with_gaps(x) for m, x in query(form).items()})


@kind
def a_column_of_nan_in_the_query(form: str) -> Task:
    return Task(samples(form, SHOTS), _blank_column(query(form)))


@kind
def a_sample_of_nan(form: str) -> Task:
    return changed(form, lambda x: np.concatenate([x[:1] * np.nan, x[1:]]), of_query=False)


@kind
def a_column_of_nan(form: str) -> Task:
    return ordinary(form, support=_blank_column(samples(form, SHOTS)))


@kind
def all_nan(form: str) -> Task:
    return changed(form, lambda x: x * np.nan, of_query=False)


@kind
def one_infinity(form: str) -> Task:
    def spoil(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x.reshape(-1)[0] = np.inf
        return x

    return changed(form, spoil, of_query=False)


@kind
def empty(form: str) -> Task:
    return changed(form, lambda x: x[:0], of_query=False)


@kind
def empty_query(form: str) -> Task:
    return Task(samples(form, SHOTS), {m: x[:0] for m, x in query(form).items()})


@kind
def no_columns(form: str) -> Task:
    return changed(form, lambda x: x[..., :0], of_query=False)


@kind
def numbers_differ_between_modalities(form: str) -> Task:
    arrays = {m: x[: SHOTS - i] for i, (m, x) in enumerate(samples(form, SHOTS).items())}
    return ordinary(form, support=arrays)


@kind
def another_modality(form: str) -> Task:
    name = "tabular" if form != "tabular" else "sequence"
    return ordinary(form, support=samples(name, SHOTS))


@kind
def duplicates_of_the_query(form: str) -> Task:
    far = samples(form, 2, 9, 6.0)
    return Task(query(form), {m: np.concatenate([x, far[m]]) for m, x in query(form).items()})


@kind
def one_query_sample(form: str) -> Task:
    return Task(samples(form, SHOTS), {m: x[:1] for m, x in query(form).items()}, may_tie=True)


@kind
def thousands_of_samples(form: str) -> Task:
    return ordinary(form, support=samples(form, MANY))


@kind
def thousands_of_unlabelled_samples(form: str) -> Task:
    return ordinary(form, support=samples(form, MANY), labels=[0] * 10 + [-1] * (MANY - 10))


def _one(form: str) -> dict[str, np.ndarray]:
    return samples(form, 1)


def _in_bytes(x: np.ndarray) -> np.ndarray:
    return np.clip(255 * x if x.ndim == 4 else 64 * x + 128, 0, 255).astype(np.uint8)


def _blank_column(arrays: Arrays) -> Arrays:
    return {m: np.where(np.arange(x.shape[-1]) == 0, np.nan, x).astype(np.float32) for m, x in arrays.items()}


def _with_gaps(x: np.ndarray) -> np.ndarray:
    return np.where(np.random.default_rng(3).random(x.shape) < 0.2, np.nan, x).astype(np.float32)
