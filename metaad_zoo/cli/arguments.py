"""Arguments that several verbs of `metaad` share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shtab

if TYPE_CHECKING:
    from metaad_zoo.data.read.roles import ColumnOptions
    from metaad_zoo.detector import Detector
    from metaad_zoo.evaluation.decisions import Calibrate
    from metaad_zoo.explain import Choice


MANY = 20
"""Number of samples from which on most of them called anomalous is worth a note."""


def support_arguments(command: argparse.ArgumentParser) -> None:
    """Add ``--support`` and the options of its columns."""
    command.add_argument(
        "--support",
        type=Path,
        required=True,
        help="normal samples: a file or folder of images, tables or series, or a manifest",
    )
    column_arguments(command, "label column, 0 normal and 1 anomalous (default: a column with a usual name)")


def unlabelled_arguments(command: argparse.ArgumentParser) -> None:
    """Add ``--unlabelled``."""
    command.add_argument(
        "--unlabelled",
        type=Path,
        metavar="PATH",
        help="further samples of the same kind that nobody has labelled, a few of which may be anomalous: a file or "
        "folder, or a manifest",
    )


def data_arguments(command: argparse.ArgumentParser) -> None:
    """Add the detector's folder, ``--data`` and the options of its columns."""
    command.add_argument("folder", help="folder of a detector, written by `metaad adapt`")
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        help="samples: a file, a folder of images, tables or series, or a manifest",
    )
    column_arguments(command, "label column, which is not a feature")


def column_arguments(command: argparse.ArgumentParser, label: str) -> None:
    """Add the options that say what the columns of a table, series or manifest are."""
    columns = command.add_argument_group("columns of tables, series and manifests")
    columns.add_argument("--label", help=label)
    columns.add_argument("--time", help="time column (default: inferred from name and content)")
    columns.add_argument("--ignore", nargs="+", default=[], metavar="COLUMN", help="columns to ignore")
    columns.add_argument(
        "--columns",
        nargs="+",
        metavar="COLUMN",
        help="feature columns (default: all except labels, times, counters and identifiers)",
    )
    columns.add_argument(
        "--decimal",
        choices=(",", "."),
        metavar="CHARACTER",
        help="decimal separator in CSV files, a comma or a point; with a point, commas separate thousands (default: "
        "inferred from the numbers)",
    )


def column_options(options: argparse.Namespace, input_shapes: Iterable[str] = ()) -> ColumnOptions:
    """The user's options for columns.

    Args:
        options: parsed arguments of a command that has :func:`column_arguments`.
        input_shapes: the model's modalities.

    Raises:
        ValueError: an option names a column, but the model reads images.
    """
    from metaad_zoo.data.read.roles import ColumnOptions
    from metaad_zoo.modality import get_modality

    columns = None if options.columns is None else tuple(options.columns)
    chosen = ColumnOptions(options.label, options.time, tuple(options.ignore), columns, options.decimal)
    if chosen.named and input_shapes and not any(get_modality(name).entry for name in input_shapes):
        raise ValueError(
            f"--label, --time, --ignore and --columns name columns ({chosen.named}), but this model reads "
            f"{sorted(input_shapes)}: leave them out"
        )
    return chosen


def _alpha_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--alpha``."""
    command.add_argument(
        "--alpha",
        type=float,
        help="target false-alarm rate (default: 0.1, or the lowest rate that the calibration scores allow)",
    )


def decision_arguments(command: argparse.ArgumentParser) -> None:
    """Add ``--alpha``, ``--calibrate`` and ``--contamination``."""
    _alpha_argument(command)
    command.add_argument(
        "--calibrate",
        choices=("across", "within", "contamination"),
        help="source of the threshold: normal samples of the validation tasks (across, the default of a calibrated "
        "checkpoint), leave-one-out scores of the support, of a series by blocks (within, the default of others and of "
        "a series of 20 windows or more), or the share of anomalies in the support (contamination)",
    )
    command.add_argument(
        "--contamination",
        type=float,
        help="expected share of anomalies in the support, or among the unlabelled samples if the detector was adapted "
        "with --unlabelled; such as 0.1",
    )


def fdr_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--fdr``."""
    command.add_argument(
        "--fdr",
        type=float,
        help="instead of --alpha: bound on the expected share of normal samples among those called anomalous, such as "
        "0.1 (Benjamini-Hochberg on the p-values of all samples together); no events of series are written",
    )


def adaptive_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--adaptive`` of a command that decides on series."""
    command.add_argument(
        "--adaptive",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="adapt the threshold to a series while it is scored (default if the support is a series of 20 windows or "
        "more and --calibrate is not given)",
    )


def follows(options: argparse.Namespace, detector: Detector) -> bool:
    """Whether the threshold follows the series, of a command that has :func:`adaptive_argument`; a note says so.

    Raises:
        ValueError: ``--adaptive`` is given for samples that are no windows of series, or with another way to decide.
    """
    from metaad_zoo.cli.terminal import note

    fdr, contamination = getattr(options, "fdr", None), getattr(options, "contamination", None)
    if options.adaptive and not detector.reads_windows:
        raise ValueError(f"--adaptive is for models of series; this one reads {sorted(detector.input_shapes)}")
    if options.adaptive and (fdr is not None or contamination is not None):
        raise ValueError("--adaptive holds a false-alarm rate (--alpha): leave out --fdr and --contamination")
    if options.adaptive is not None:
        return bool(options.adaptive)
    by_default = options.calibrate is None and fdr is None and contamination is None
    if not (by_default and detector.reads_windows and detector.has_history):
        return False
    note("the threshold follows the series as it changes (--no-adaptive keeps it fixed)")
    return True


def decision_way(
    options: argparse.Namespace, detector: Detector, points: bool = False
) -> tuple[float | None, Calibrate, float | None]:
    """Arguments of :meth:`metaad_zoo.Detector.decide`, of a command that has :func:`decision_arguments`.

    With ``points`` a way from the support's own samples compares points of the series with points.

    Where the command chooses the calibration or the rate, a note says so. With ``--fdr`` the rate is of no use.

    Raises:
        RuntimeError, ValueError: the detector can't decide so.
    """
    from metaad_zoo.cli.terminal import note
    from metaad_zoo.evaluation.decisions import USUAL_ALPHA
    from metaad_zoo.evaluation.selection import require_selectable

    contamination, fdr = getattr(options, "contamination", None), getattr(options, "fdr", None)
    if fdr is not None and options.alpha is not None:
        raise ValueError("--alpha and --fdr are two ways to decide: give one of them")
    own = detector.has_history or not detector.calibrated_for
    if points and (options.calibrate == "within" or (own and (options.calibrate, contamination) == (None, None))):
        calibrate: Calibrate | None = "points"
    else:
        calibrate = options.calibrate
    rate, way = detector.way_to_decide(options.alpha, calibrate, contamination)
    if options.calibrate is None and way in ("within", "points"):
        what = "points of the support's history" if way == "points" else "the support set"
        note(f"decisions compare with leave-one-out scores of {what} (--calibrate within)")
    if fdr is not None:
        require_selectable(fdr, len(detector.normal_scores(way, contamination)))
    elif options.alpha is None and way != "contamination" and rate > USUAL_ALPHA:
        n = round(1 / rate) - 1
        note(f"{n} calibration scores can't hold {USUAL_ALPHA:.0%} false alarms: decisions aim at {rate:.0%} (--alpha)")
    return rate if way != "contamination" else options.alpha, way, contamination


def decision_choice(options: argparse.Namespace, detector: Detector, only_anomalous: bool, top: int | None) -> Choice:
    """Which samples are explained; without decisions, and with a note, if none are asked for and none can be made.

    Raises:
        RuntimeError, ValueError: decisions are asked for, but the detector can make none.
    """
    from metaad_zoo.cli.terminal import note
    from metaad_zoo.explain import Choice

    fdr = getattr(options, "fdr", None)
    asked = (options.alpha, options.calibrate, options.contamination, fdr) != (None, None, None, None)
    try:
        alpha, calibrate, contamination = decision_way(options, detector)
    except (RuntimeError, ValueError) as error:
        if asked or getattr(options, "only_anomalous", False):
            raise
        note(f"no sample is called anomalous, and no region is outlined: {error}")
        return Choice(False, False, top)
    return Choice(True, only_anomalous, top, alpha, calibrate, contamination, fdr)


def note_many_flagged(anomalous: int | None, n: int) -> None:
    """Print a note if most samples are called anomalous, which a threshold for few false alarms seldom means."""
    from metaad_zoo.cli.terminal import note

    if anomalous is not None and n >= MANY and anomalous > n / 2:
        note(
            f"{anomalous / n:.0%} of all samples are called anomalous: if most of them should be normal, they differ "
            "from the support as a whole (later times, another setting); give normal samples like them as --support"
        )


def json_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    command.add_argument("--json", action="store_true", help="print JSON instead of text")


def threshold_arguments(command: argparse.ArgumentParser) -> None:
    """Add ``--alpha`` and ``--calibrate`` of a detector that is exported or served."""
    _alpha_argument(command)
    command.add_argument(
        "--calibrate",
        choices=("across", "within"),
        help="source of the threshold: normal samples of the validation tasks (across, the default of a calibrated "
        "checkpoint) or leave-one-out scores of the support, of a series by blocks (within, the default of others and "
        "of a series of 20 windows or more)",
    )


def import_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--import``."""
    command.add_argument(
        "--import",
        dest="plugins",
        metavar="MODULE",
        action="append",
        default=[],
        help="Python module that registers your own backbones, learners, data sets, modalities or baselines "
        "(repeatable)",
    )


def modality_name(text: str) -> str:
    """Name of a modality; ``series`` and ``table`` are accepted for ``sequence`` and ``tabular``.

    Example:
        >>> modality_name("series"), modality_name("image")
        ('sequence', 'image')
    """
    from metaad_zoo.zoo.defaults import default_of

    default = default_of(text)
    return text if default is None else default.modality


def require_folder(out: Path) -> None:
    """Check that ``--out`` is not a file, before any work.

    Raises:
        ValueError: it is a file.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder")


def refuse_replacing(written: Iterable[Path], read: Iterable[Any]) -> None:
    """Check that no file to be written replaces one that is read, before any work.

    Args:
        written: files to be written.
        read: files and folders that are read; what is no path is ignored.

    Raises:
        ValueError: a file is among both.
    """
    present = {path.resolve(): path for path in written if path.exists()}
    for source in read if present else ():
        path = present.get(Path(source).expanduser().resolve()) if isinstance(source, (str, Path)) else None
        if path is not None:
            raise ValueError(f"{path} would be written, but {source} is the same file and is read: name another --out")


def complete_paths(command: argparse.ArgumentParser) -> None:
    """Let a shell complete files after every option that takes a path."""
    for action in command._actions:
        if action.type is Path or action.dest in ("folder", "name", "methods", "models"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def adapted_detector(folder: str) -> Detector:
    """Load a detector.

    Raises:
        ValueError: it is not adapted to any domain yet.
    """
    from metaad_zoo.detector import load_detector

    detector = load_detector(folder)
    if not detector.is_fitted:
        raise ValueError(
            f"{folder} is not adapted to any domain yet: metaad adapt {folder} --support PATH --out my_detector"
        )
    return detector
