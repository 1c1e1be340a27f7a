"""Classify images, and draw stage attention and class maps."""

from ssia_zoo.inference.classifier import Classifier, Guess, Prediction, find_images, read_image

__all__ = ["Classifier", "Guess", "Prediction", "find_images", "read_image"]
