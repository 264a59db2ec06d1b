"""Watchers of signals: verdict, progress display, prompt shutdown, garbage collector."""
