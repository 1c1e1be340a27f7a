"""Webdataset shards whose images have different suffixes from sample to sample, read into one column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
from datasets.data_files import DataFilesDict
from datasets.packaged_modules.webdataset.webdataset import WebDataset


class MixedWebDataset(WebDataset):  # type: ignore[misc]
    """`datasets`' reader of webdataset shards, for samples of one image each, be it .png, .jpg or .jpeg.

    The column is named for the first image's suffix.
    """

    @classmethod
    def load(cls, files: list[str], split: str, *, streaming: bool) -> Any:
        """Load the shards of a split, given by their paths or patterns."""
        found = DataFilesDict.from_patterns({split: files})
        builder = cls(dataset_name="webdataset", config_name="default", data_files=found, hash="ssia_zoo")
        if streaming:
            return builder.as_streaming_dataset(split=split)
        builder.download_and_prepare()
        return builder.as_dataset(split=split)

    def _split_generators(self, dl_manager: Any) -> Any:
        self._column: str | None = None
        generators = super()._split_generators(dl_manager)
        images = [name for name, feature in self.info.features.items() if isinstance(feature, datasets.Image)]
        self._column = images[0] if len(images) == 1 else None
        return generators

    def _get_pipeline_from_tar(self, tar_path: str, tar_iterator: Any) -> Iterator[dict[str, Any]]:
        for sample in super()._get_pipeline_from_tar(tar_path, tar_iterator):
            images = [name for name in sample if name.rsplit(".", 1)[-1].lower() in self.IMAGE_EXTENSIONS]
            self._column = self._column or (images[0] if len(images) == 1 else "")
            if len(images) == 1 and self._column not in ("", images[0]):
                sample = {(self._column if name == images[0] else name): value for name, value in sample.items()}
            yield sample
