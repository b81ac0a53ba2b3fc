"""Images to descriptor dumps: one forward pass a backbone, resumable, the same bytes however often
interrupted.
"""

from features.extraction.planning import Plan
from features.extraction.running import ExtractionReport, describe, extract, extracted_images, plan
from features.extraction.targets import component_dump_path, dumps_folder, external_dump_path

__all__ = [
    "ExtractionReport",
    "Plan",
    "component_dump_path",
    "describe",
    "dumps_folder",
    "external_dump_path",
    "extract",
    "extracted_images",
    "plan",
]
