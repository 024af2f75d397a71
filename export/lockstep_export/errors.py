"""What can go wrong, in words for the person at the keyboard. Imports nothing."""


class ExportError(Exception):
    """Base of every error that the command line tells in one message and without a traceback."""


class DataError(ExportError):
    """The data folder is not there, lacks a file, or holds a line that cannot be read."""


class DescriptionError(ExportError):
    """What was said of a module (axes, names, labels, states) does not fit the module, or itself."""


class ModuleError(ExportError):
    """A module that cannot be served as it is: no description of it would help."""


class FrozenError(ModuleError):
    """What varies with the input would be fixed in the graph: an axis, or the way that an `if` takes."""


class ParityError(ExportError):
    """The exported graph does not answer as the PyTorch module does, or padding changes an answer."""


class NotTrainedError(ExportError):
    """A step was asked for that needs trained weights or an exported graph which is not there."""
