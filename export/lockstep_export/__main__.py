"""Entry point of the `lockstep-export` command. Ctrl-C ends it quietly, also while PyTorch is imported."""

import os
import signal

_INTERRUPTED = 130


def main() -> None:
    """The console script."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored by the parent process
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from lockstep_export.cli import main as command

    signal.signal(signal.SIGINT, before)  # what runs may have to be tidied up
    command()


if __name__ == "__main__":
    main()
