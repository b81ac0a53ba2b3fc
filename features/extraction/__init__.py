"""Images to descriptor dumps: one forward pass a backbone, resumable, the same bytes however often
interrupted.
"""

from features.dumps.layout import component_dump_path, dumps_folder, external_dump_path
from features.extraction.duplicates import exact_duplicates, near_duplicates
from features.extraction.estimate import Plan
from features.extraction.extract import ExtractionReport, describe, extract, plan
from features.extraction.sample import extracted_images
from features.extraction.verify import VerifyReport, verify

__all__ = [
    "ExtractionReport",
    "Plan",
    "VerifyReport",
    "component_dump_path",
    "describe",
    "dumps_folder",
    "exact_duplicates",
    "external_dump_path",
    "extract",
    "extracted_images",
    "near_duplicates",
    "plan",
    "verify",
]
