"""The error that a user can fix; `operators.errors` hands it on, so that every layer raises the same."""


class InputError(ValueError):
    """Names what is wrong and how to fix it; the command line prints it and exits with code 2."""
