"""The constraint region, its candidates, the study, and validation that can be trusted; ends in a recipe."""
