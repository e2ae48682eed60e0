"""Export of an adapted detector as one graph that runs without this package: ONNX or torch.export."""

from metaad_zoo.export.exporting import EXPORTED_WAYS, export_detector
from metaad_zoo.export.files import Exported, ExportError, Format, load_exported

__all__ = ["EXPORTED_WAYS", "ExportError", "Exported", "Format", "export_detector", "load_exported"]
