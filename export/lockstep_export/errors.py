"""The errors of an export. Imports nothing."""


class ExportError(Exception):
    """Base class of the errors that the command line prints without a traceback."""


class DataError(ExportError):
    """The data folder does not exist, lacks a file, or holds a line that cannot be read."""


class DescriptionError(ExportError):
    """The declaration of a module (axes, names, labels, states) does not match the module, or itself."""


class ModuleError(ExportError):
    """A module that cannot be served as it is, whatever is declared."""


class FrozenError(ModuleError):
    """Something that depends on the input would be constant in the graph: an axis, or a branch taken."""


class ParityError(ExportError):
    """The exported graph's results differ from the PyTorch module's, or padding changes a result."""


class NotTrainedError(ExportError):
    """The command needs trained weights or an exported graph that do not exist."""
