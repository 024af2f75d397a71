"""Entry point of the `lockstep-export` command."""

from lockstep_export.imports import importing


def main() -> None:
    """The console script."""
    with importing():
        from lockstep_export.cli import main as command
    command()


if __name__ == "__main__":
    main()
