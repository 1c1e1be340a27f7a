"""Upload to and download from the Hugging Face Hub; no other module does."""

from __future__ import annotations

from ssia_zoo.hub.collection import update_collection
from ssia_zoo.hub.download import fetch, fetch_files, fetch_repository
from ssia_zoo.hub.folder import PUBLISHED_FILES, check_folder
from ssia_zoo.hub.hashes import file_sha256
from ssia_zoo.hub.spaces import publish_space
from ssia_zoo.hub.upload import BackgroundPusher, check_access, prepare_card, publish, publish_to_folder

__all__ = [
    "PUBLISHED_FILES",
    "BackgroundPusher",
    "check_access",
    "check_folder",
    "fetch",
    "fetch_files",
    "fetch_repository",
    "file_sha256",
    "prepare_card",
    "publish",
    "publish_space",
    "publish_to_folder",
    "update_collection",
]
