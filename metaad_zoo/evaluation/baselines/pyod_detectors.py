"""Any detector of PyOD as a baseline; PyOD is imported only when one is created."""

from __future__ import annotations

import inspect
import re
from fnmatch import filter as filter_names
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.evaluation.baselines.features import FeatureMethod, ScoreVectors, Standardise
from metaad_zoo.evaluation.baselines.registry import BASELINES, PYOD_PREFIX
from metaad_zoo.registry import unknown_name

MEND = "pip install 'metaad_zoo[pyod]'"
NOT_ON_VECTORS = ("ts_", "pyg_", "audio_", "embedding")
"""Prefixes of modules whose detectors read time steps, graphs, recordings or texts instead of vectors."""

AMONG_SUPPORT = frozenset({"CD", "COF", "LMDD", "ROD", "SOD", "SOS"})
"""Detectors that store nothing of the support, and compare the samples to be scored with one another."""

DETECTOR = re.compile(r"^class ([A-Za-z]\w*)\(Base\w*Detector\):", re.MULTILINE)


@cache
def detectors() -> dict[str, str]:
    """Module of each detector of vectors in the PyOD that is installed, read from its sources; none without PyOD.

    Importing them all would need every library that any of them is built on.
    """
    spec = find_spec("pyod")
    if spec is None:
        return {}
    modules: dict[str, str] = {}
    for folder in spec.submodule_search_locations or []:
        for path in sorted((Path(folder) / "models").glob("*.py")):
            if path.stem.startswith(NOT_ON_VECTORS):
                continue
            for name in DETECTOR.findall(path.read_text(encoding="utf-8")):
                if not name.startswith("Base"):
                    modules.setdefault(name, f"pyod.models.{path.stem}")
    return modules


class PyODDetector(FeatureMethod):
    """A detector of PyOD on the support's vectors.

    Its settings are PyOD's, with three exceptions: ``n_neighbors`` is capped at K - 1, as scikit-learn requires;
    ``random_state`` is 0; and each sample is scored alone, because in some detectors (ECOD, COPOD) the score of a
    sample depends on the others scored with it. Detectors of :data:`AMONG_SUPPORT` score it together with the support.
    Scoring one by one is slow: compare seconds with care. Errors of detectors that need more samples are passed on.

    Source: Zhao et al., "PyOD: A Python Toolbox for Scalable Outlier Detection", JMLR 2019.

    Args:
        detector: class name, such as ``KNN``.
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`.
        options: the class's own arguments.

    Raises:
        ValueError: PyOD is not installed; the class or an option is unknown (the nearest are named); or it needs a
            library that is missing.
    """

    def __init__(self, detector: str, standardise: Standardise = "support", **options: Any) -> None:
        super().__init__(standardise)
        modules = detectors()
        if not modules:
            raise ValueError(f"pyod/{detector} needs the package pyod, which is not installed: {MEND}")
        if detector not in modules:
            raise unknown_name("detector of PyOD", detector, modules)
        try:
            self._class = getattr(import_module(modules[detector]), detector)
        except ImportError as error:
            raise ValueError(f"pyod/{detector} needs a library that {MEND} does not bring: {error}") from error
        self.title = f"pyod/{detector}"
        self._arguments = dict(inspect.signature(self._class).parameters)  # a mapping proxy has no copies
        open_ended = any(p.kind is p.VAR_KEYWORD for p in self._arguments.values())
        for option in options:
            if option not in self._arguments and not open_ended:
                raise unknown_name(f"option of baseline {self.title!r}:", option, [*self._arguments, "standardise"])
        self.options = options

    def fit(self, x: Tensor) -> ScoreVectors:
        """Fit the detector.

        Raises:
            ValueError: it fails on so few samples, or its scores are not finite.
        """
        options = dict(self.options)
        if "random_state" in self._arguments:
            options.setdefault("random_state", 0)
        if "n_neighbors" in self._arguments:
            wanted = options.get("n_neighbors", self._arguments["n_neighbors"].default)
            if isinstance(wanted, int):
                options["n_neighbors"] = min(wanted, len(x) - 1)
        try:
            model = self._class(**options)
            model.fit(x.numpy())
        except Exception as error:
            raise ValueError(f"{self.title} can't be fitted to {len(x)} support samples: {error}") from error

        def score(query: Tensor) -> Tensor:
            beside = x.numpy() if self._class.__name__ in AMONG_SUPPORT else x[:0].numpy()
            try:
                values = [np.ravel(model.decision_function(np.vstack([beside, row])))[-1] for row in query.numpy()]
            except Exception as error:
                raise ValueError(f"{self.title} fitted {len(x)} support samples but can't score: {error}") from error
            scores = torch.tensor(np.array(values, dtype=np.float64).ravel())
            if not scores.isfinite().all():
                raise ValueError(f"{self.title} gave scores that are not finite, after {len(x)} support samples")
            return scores

        return score


BASELINES.add_family(PYOD_PREFIX, PyODDetector, None, lambda pattern: filter_names(list(detectors()), pattern))
