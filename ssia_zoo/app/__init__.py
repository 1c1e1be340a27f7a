"""A page in the browser: a model's answer to a picture and where it looks, and the table of published weights."""

from ssia_zoo.app.config import AppConfig
from ssia_zoo.app.server import serve

__all__ = ["AppConfig", "serve"]
