"""The acceptance on a GPU, one file a section; `python -m tests.benchmarks.gpu` runs it."""
