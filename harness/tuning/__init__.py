"""Tuning: attackers whose settings are searched for each defense, on tasks and seeds that a suite does not report."""
