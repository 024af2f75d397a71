"""Entry point of the `lockstep` command. Ctrl-C exits quietly, even while the command is being imported."""

import os

from lockstep_client import interrupts


def main() -> None:
    """The console script."""
    interrupts.end_at_once()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # an error is one line of our own
    from lockstep_client.cli import main as command

    command()


if __name__ == "__main__":
    main()
