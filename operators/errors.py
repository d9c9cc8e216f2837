"""What a user can mend is said in one line; everything else is a defect and keeps its traceback."""


class InputError(ValueError):
    """Names the thing that is wrong and the way out; the command line prints it and exits with code 2."""


class UnusableRowError(ValueError):
    """A row that cannot be used, and why; it goes to quarantine, is counted, and the rest goes on."""
