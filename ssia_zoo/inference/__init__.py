"""Classify and embed images, and draw stage attention and class maps."""

from ssia_zoo.inference.classifier import Classifier, Guess, Prediction
from ssia_zoo.inference.embedding import Embedder, Embedding
from ssia_zoo.inference.images import find_images, read_image

__all__ = ["Classifier", "Embedder", "Embedding", "Guess", "Prediction", "find_images", "read_image"]
