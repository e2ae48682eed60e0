"""A detector for the samples of ``--support``: by the name of a modality, checkpoint or baseline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaad_zoo.cli.arguments import column_options, modality_name
from metaad_zoo.cli.terminal import note, note_account
from metaad_zoo.modality import SequenceModality, list_modalities

if TYPE_CHECKING:
    from metaad_zoo.detector import Detector
    from metaad_zoo.modality.samples import Reading


def model_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of a learner that trains nothing and of baselines."""
    command.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="file with pretrained weights of the backbone, .safetensors or .pth (default: an installed package or "
        "timm's download)",
    )
    command.add_argument("--backbone", metavar="timm/MODEL", help="backbone for patch_memory: any image model of timm")
    command.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="image size for patch_memory, height and width (default: 224)"
    )
    command.add_argument(
        "--window",
        type=int,
        metavar="STEPS",
        help="length of the windows that a baseline cuts series into (default: 32)",
    )
    command.add_argument(
        "--modality",
        type=modality_name,
        choices=list_modalities(several=True),
        help="modality that a baseline reads (default: inferred from the files)",
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of a baseline, such as k=3 (repeatable); `metaad info knn` lists them",
    )


def region_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--roi``."""
    command.add_argument(
        "--roi",
        type=Path,
        metavar="FILE",
        help="region of interest: an image that is white where the samples are inspected and black elsewhere",
    )


def fitted_detector(options: argparse.Namespace, contamination: float | None) -> tuple[Detector, str, Reading]:
    """The detector that a command names, adapted to its support set and unlabelled samples, its full name, and the
    support set; prints what was left out, guessed or converted.

    Args:
        options: parsed arguments of a command that has ``name``, :func:`model_arguments`, :func:`region_argument`,
            ``--support`` and ``--unlabelled``.
        contamination: share of anomalies among the unlabelled samples, if known.

    Raises:
        CheckpointError, ValueError, FloatingPointError: as :func:`detector_for` and :meth:`Detector.fit`.
    """
    detector, name, reading = detector_for(options)
    noted = len(reading.account)
    if detector.is_fitted:
        note(
            f"the {len(detector.support_labels)} samples that {name} was adapted to are replaced; "
            f"`metaad update {name} --support PATH` adds to them"
        )
    detector.fit_reading(reading, None, options.roi, options.unlabelled, contamination, column_options(options))
    note_account(list(reading.account)[noted:])
    return detector, name, reading


def detector_for(options: argparse.Namespace) -> tuple[Detector, str, Reading]:
    """The detector that a command names, not adapted yet, its full name, and the support set that was read for it.

    Args:
        options: parsed arguments of a command that has ``name``, :func:`model_arguments` and ``--support``.

    Raises:
        CheckpointError: there is no such checkpoint.
        ValueError: the support or an option can't be used.
    """
    from metaad_zoo.data.read.account import Account
    from metaad_zoo.detector import load_detector
    from metaad_zoo.evaluation.baselines import is_baseline, modalities_of
    from metaad_zoo.modality.multimodal import Multimodal
    from metaad_zoo.modality.samples import note_guess, read_manifest, read_support, recognise
    from metaad_zoo.zoo import is_known, published_of
    from metaad_zoo.zoo.defaults import default_of

    name, modality, source = options.name, options.modality, options.support
    guesses = Account()
    if name is None:
        name, source = (modality, source) if modality else recognise(options.support)
        if default_of(name) is None:
            if modality is None:
                source.close()  # a manifest, which is open already
            raise ValueError(
                f"{options.support} holds {name} samples, which have no default detector: name one (--method)"
            )
        if modality is None:
            note_guess(guesses, options.support, name)
    default = None if is_known(name) else default_of(name)
    if default is not None:
        if modality not in (None, default.modality):
            raise ValueError(f"{name} is the default of {default.modality} samples: leave out --modality {modality}")
        name, modality = default.detector, default.modality
        note(f"the default for {modality} samples is {name} (`metaad info {modality}` says why)")
    chosen: dict[str, Any] = {k: getattr(options, k) for k in ("weights", "backbone", "image_size")}
    chosen |= dict(_assigned(text) for text in options.option)
    reading = None
    if is_baseline(name) and not is_known(name):
        load_detector(name, **chosen)  # refuses what it does not take before a file is opened
        columns = column_options(options)
        if modality is None and options.window is not None:
            modality = SequenceModality.name
        if modality is None:
            modality, source = _recognised(name, options.support)
            if len(modalities_of(name)) > 1:
                note_guess(guesses, options.support, modality)
        note_account(guesses)  # before files are read: a wrong guess may be the cause of an error there
        if modality == Multimodal.name:
            reading = read_manifest(source, columns)
            chosen["input_shapes"] = {m: list(x.shape[1:]) for m, x in reading.samples.items()}
        else:
            chosen["modality"] = modality
        chosen["window"] = options.window
    elif options.window is not None:
        raise ValueError(f"--window is for baselines, and {name} has windows of its own length: leave it out")
    elif options.modality is not None:
        raise ValueError(f"--modality is for baselines, and {name} reads what it was made for: leave it out")
    elif options.backbone is None and options.image_size is None and published_of(name) != name:
        asked, name = name, published_of(name)
        note(f"{asked} is the published checkpoint {name}")
    detector = load_detector(name, **chosen)
    columns = column_options(options, detector.input_shapes)
    if reading is None:
        reading = read_support(source, detector.usual_shapes, columns, **detector.support_options)
    note_account(reading.account)
    reading.account.join(guesses)
    if columns.label is None:
        reading.require_normal(str(options.support))
    return detector, name, reading


def _recognised(name: str, support: Path) -> tuple[str, Any]:
    """The modality of a support set that a baseline can read, and what to read the samples from."""
    from metaad_zoo.evaluation.baselines import modalities_of
    from metaad_zoo.modality.samples import recognise

    readable = modalities_of(name)
    if len(readable) == 1:
        return readable[0], support
    return recognise(support)


def _assigned(text: str) -> tuple[str, Any]:
    """Name and value of ``NAME=VALUE``; the value is read as YAML.

    Example:
        >>> _assigned("k=3"), _assigned("standardise=none")
        (('k', 3), ('standardise', 'none'))
    """
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--option {text}: expected NAME=VALUE, such as k=3")
    return name, yaml.safe_load(value)
