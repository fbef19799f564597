"""The layout of records: a tf.train.Example with a feature for the image and one for the label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jcls.config.parts import suggest
from jcls.host.tensorflow import tf


class Layout(NamedTuple):
    """The features of an Example that matter.

    Attributes:
      image: key of the encoded image, one bytes value.
      label: key of the class, one int64 value, counted from `offset`.
      offset: label of the first class.
      classes: number of classes.
    """

    image: str
    label: str
    offset: int
    classes: int

    def check(self, record: bytes, name: str) -> None:
        """Raise ValueError if `record`, called `name`, has another layout; it lists what it has."""
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError as error:
            raise ValueError(f'{name} is not a tf.train.Example: {error}') from None
        kinds = {key: str(value.WhichOneof('kind')) for key, value in sorted(features.items())}
        known = ', '.join(f'{key} ({kind})' for key, kind in kinds.items()) or 'nothing'
        for field, key, kind in (
            ('image_key', self.image, 'bytes_list'),
            ('label_key', self.label, 'int64_list'),
        ):
            if key not in kinds:
                raise ValueError(
                    f'config.data.{field}={key!r}: {name} has no such feature'
                    f'{suggest(key, kinds)} (it has {known})'
                )
            values = getattr(features[key], kind).value
            if kinds[key] != kind or len(values) != 1:
                count = len(getattr(features[key], kinds[key]).value)
                raise ValueError(
                    f'config.data.{field}={key!r}: of {name} it is a {kinds[key]} of {count}; it '
                    f'must be a {kind} of 1 (the record has {known})'
                )
        self.check_label(features[self.label].int64_list.value[0] - self.offset, name)

    def check_label(self, label: Any, name: str) -> None:
        """Raise ValueError if `label`, counted from 0, is not a class."""
        if not 0 <= label < self.classes:
            raise ValueError(
                f'the label of {name} is {label + self.offset}, but must be in {self.offset}..'
                f'{self.classes + self.offset - 1}: {self.classes} classes counted from '
                f'{self.offset}'
            )

    def parse(self, record: Any, index: Any, name: Callable[[int], str]) -> tuple[Any, Any]:
        """A record, a tf string scalar -> the encoded image and its label, an int32 tf scalar.

        A record without them is an OpError; a label that is no class is a ValueError (an OpError in
        a graph): not damage to be put up with, but a mistake in the config.
        """
        features = tf.io.parse_single_example(
            record,
            {
                self.image: tf.io.FixedLenFeature([], tf.string),
                self.label: tf.io.FixedLenFeature([], tf.int64),
            },
        )
        label = features[self.label] - self.offset

        def complain(index: Any, label: Any) -> np.ndarray:
            self.check_label(int(label), name(int(index)))
            return label

        known = tf.logical_and(label >= 0, label < self.classes)
        label = tf.cond(
            known, lambda: label, lambda: tf.numpy_function(complain, [index, label], tf.int64)
        )
        return features[self.image], tf.cast(tf.ensure_shape(label, []), tf.int32)
