"""The door of the `lockstep` command: Ctrl-C ends it quietly, also while the command is still imported."""

import sys


def main() -> None:
    """The console script."""
    try:
        from lockstep_client.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
