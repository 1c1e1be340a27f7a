"""Evaluate models, and verify published weights."""
