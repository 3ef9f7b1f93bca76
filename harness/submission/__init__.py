"""Submissions: a run packed so that others can check it, and boards made of what was submitted."""
