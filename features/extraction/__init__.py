"""Images to descriptor dumps: one forward pass a backbone, resumable, the same bytes after any interruption."""

from features.dumps.layout import dumps_folder, external_dump_path, layer_dump_path, parts_dump_path
from features.extraction.beside_dumps import exact_duplicates, near_duplicates
from features.extraction.estimate import Plan
from features.extraction.extract import ExtractionReport, describe, extract, plan
from features.extraction.sample import extracted_images
from features.extraction.verify import VerifyReport, verify

__all__ = [
    "ExtractionReport",
    "Plan",
    "VerifyReport",
    "describe",
    "dumps_folder",
    "exact_duplicates",
    "external_dump_path",
    "extract",
    "extracted_images",
    "layer_dump_path",
    "near_duplicates",
    "parts_dump_path",
    "plan",
    "verify",
]
