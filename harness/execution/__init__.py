"""Carries out a plan: scheduler, workers, executors, time limits, run costs and progress."""
