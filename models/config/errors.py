"""The error that a user can fix; `operators.errors` hands it on, so that every layer raises the same."""

from models.config.secrets import masked


class InputError(ValueError):
    """Names what is wrong and how to fix it; the command line prints it and exits with code 2."""

    def __init__(self, *parts: object) -> None:
        """Keep the message, without passwords of URLs."""
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in parts))
