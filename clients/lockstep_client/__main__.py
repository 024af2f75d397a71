"""Entry point of the `lockstep` command. Ctrl-C exits quietly, even while the command is being imported."""

from lockstep_client import interrupts


def main() -> None:
    """The console script."""
    interrupts.end_at_once()
    from lockstep_client.cli import main as command

    command()


if __name__ == "__main__":
    main()
