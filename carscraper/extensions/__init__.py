"""Watchers of signals: the verdict and the progress display."""
