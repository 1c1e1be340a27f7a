"""Classify images, and draw what a model sees in them."""
