"""Ranked lists as files for judges and people: writing, checking, predicting, showing."""
