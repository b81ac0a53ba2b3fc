"""Images to descriptor dumps: one forward pass a backbone, resumable, the same bytes after any interruption."""

from features.extraction.beside_dumps import exact_duplicates, near_duplicates
from features.extraction.estimate import Plan
from features.extraction.extract import describe, extract, plan
from features.extraction.extraction_report import ExtractionReport
from features.extraction.sample import extracted_images
from features.extraction.verify import VerifyReport, verify

__all__ = [
    "ExtractionReport",
    "Plan",
    "VerifyReport",
    "describe",
    "exact_duplicates",
    "extract",
    "extracted_images",
    "near_duplicates",
    "plan",
    "verify",
]
