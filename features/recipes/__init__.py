"""Recipes: what turns dumps into ranked lists; the JSON files beside this are those that come with the program."""
