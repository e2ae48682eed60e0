"""An adapted detector as one graph, for where this package is not: ONNX, or torch.export's own format."""

from metaad_zoo.export.exporting import EXPORTED_WAYS, export_detector
from metaad_zoo.export.files import Exported, ExportError, Format, load_exported

__all__ = ["EXPORTED_WAYS", "ExportError", "Exported", "Format", "export_detector", "load_exported"]
