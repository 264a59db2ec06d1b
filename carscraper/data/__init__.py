"""Data files, read with :mod:`importlib.resources` because scrapyd runs the project from a zipped egg."""
