"""Why training ends before its end."""

from ekd_train.errors import EkdError


class TrainingDiverged(EkdError):
    """Loss or weights are not finite any more; the message says where, and what to go back to."""


class ComputationDiffers(EkdError):
    """Workers do not compute the same; the message says which, and what to go back to."""
