"""Evaluation: metrics, calibration, classical baselines, and one protocol for all methods."""
