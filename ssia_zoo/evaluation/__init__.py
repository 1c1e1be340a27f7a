"""Measure models, and verify what published weights claim."""
