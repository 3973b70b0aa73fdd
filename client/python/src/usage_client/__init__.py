"""Client of usage-billing: counts usage exactly once, shows it, and reports it to Stripe.

The messages of the contract are in `usage_client.proto`, generated from it; their comments are the reference.
"""

from usage_client.aio import AsyncServices, AsyncUsageClient
from usage_client.at_exit import exit_on_sigterm
from usage_client.client import Services, UsageClient
from usage_client.errors import ErrorKind, FieldViolation, UsageError
from usage_client.figures import Figures, Recorded
from usage_client.increments import BatchOutcome, Counted, Increment, IncrementResult, Outcome
from usage_client.reason import Reason
from usage_client.recorder import Recorder
from usage_client.refused import RefusedUsage
from usage_client.retry import Retry

__all__ = [
    "AsyncServices",
    "AsyncUsageClient",
    "BatchOutcome",
    "Counted",
    "ErrorKind",
    "FieldViolation",
    "Figures",
    "Increment",
    "IncrementResult",
    "Outcome",
    "Reason",
    "Recorded",
    "Recorder",
    "RefusedUsage",
    "Retry",
    "Services",
    "UsageClient",
    "UsageError",
    "exit_on_sigterm",
]
