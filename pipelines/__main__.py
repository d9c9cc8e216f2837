"""`hubbub`, or `python -m pipelines`."""

from pipelines.cli.main import main

if __name__ == "__main__":
    main()
