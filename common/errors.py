"""Errors a user can cause: one line that names the value received, what is allowed and the way out."""


class UserError(ValueError):
    """Something the user can mend. The command line prints its message and exits with status 2."""


class LayerError(UserError):
    """A layer that does not exist or has no feature map; the message lists layers that have one."""


class EmptyReply(UserError):
    """A model that writes wrote nothing."""


class MethodError(UserError):
    """A method that this model cannot be explained with; the message names one that works instead."""


def check_no_options(options: dict[str, object], name: str) -> None:
    """Raises `UserError` for options that only chat models of `transformers` have."""
    if options:
        given = ", ".join(option.replace("_", "-") for option in options)
        raise UserError(f"{given} is for chat models of transformers (hf:FOLDER); {name} is none: leave it out")
