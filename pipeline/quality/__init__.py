"""Evaluation, audits and reports. Nothing here needs downloaded weights."""
