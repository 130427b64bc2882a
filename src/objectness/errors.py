"""The errors that a user's input can cause, as one tree.

    ObjectnessError
    ├── ConfigError        an option or a combination of options that cannot be
    ├── ImageError         a file that is no readable image
    ├── AnnotationError    boxes or annotation files that cannot be taken as they are
    ├── CheckpointError    weights that are missing, damaged or of another network
    ├── DownloadError      weights that could not be fetched or are not what they should be
    └── TrainingError      a training run that cannot go on

Each message is one sentence or two: what is wrong, where, and what to do. The command line prints it as it is and
exits with 1; nothing else in the package prints or exits.
"""


class ObjectnessError(Exception):
    """Something the caller can mend; the message says how."""


class ConfigError(ObjectnessError, ValueError):
    """An option, or a combination of options, that cannot be."""


class ImageError(ObjectnessError):
    """A file that cannot be read as an image."""


class AnnotationError(ObjectnessError):
    """An annotation file, or a box in it, that cannot be taken as it is."""


class CheckpointError(ObjectnessError):
    """Weights that are missing, damaged or belong to another network."""


class DownloadError(ObjectnessError):
    """Weights that could not be fetched, or whose hash is not the published one."""


class TrainingError(ObjectnessError):
    """A training run that cannot start or go on."""
