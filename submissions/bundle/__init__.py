"""A bundle: one folder that answers unseen images without the competition, the gallery or a network beside it."""
