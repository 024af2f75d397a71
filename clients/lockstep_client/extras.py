"""The error text for a missing optional dependency."""


def missing(feature: str, packages: str, extra: str) -> str:
    """States that `feature` needs `packages`, and how to install the extra that provides them."""
    return f"{feature} needs {packages}: install the extra with pip install 'lockstep-inference[{extra}]'"
