"""Export models to other runtimes and check their logits against PyTorch's."""

from ssia_zoo.export.exporter import TARGETS, TOLERANCE, ExportResult, export, export_model, load_artefact
from ssia_zoo.export.onnx import add_onnx

__all__ = ["TARGETS", "TOLERANCE", "ExportResult", "add_onnx", "export", "export_model", "load_artefact"]
