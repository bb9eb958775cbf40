"""Precisions of a bundle side by side: how fast, how close, and what it means for the task."""
