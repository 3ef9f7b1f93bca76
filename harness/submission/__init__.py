"""Submissions: runs as files that others can verify, and that records are made of."""
