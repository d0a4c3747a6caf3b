"""One hierarchy of errors for HTTP and Kafka: what happened, whether to retry, and what to do next."""

from http import HTTPStatus


class DriftwheelError(Exception):
    """Base of expected errors. `detail` is shown to callers, so it never quotes what they sent."""

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "internal_error"
    retryable: bool = False

    def __init__(self, detail: str, next_step: str = "") -> None:
        super().__init__(f"{detail} {next_step}".strip())
        self.detail = detail
        self.next_step = next_step


class Invalid(DriftwheelError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_request"


class NotFound(DriftwheelError):
    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class Conflict(DriftwheelError):
    status = HTTPStatus.CONFLICT
    code = "conflict"


class GateRefused(Conflict):
    """A declared gate said no; the caller may not simply try again."""

    code = "gate_refused"


class Unauthenticated(DriftwheelError):
    status = HTTPStatus.UNAUTHORIZED
    code = "unauthenticated"


class Forbidden(DriftwheelError):
    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class TooLarge(DriftwheelError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "too_large"


class Overloaded(DriftwheelError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "overloaded"
    retryable = True


class Unavailable(DriftwheelError):
    """A part we need (store, engine, broker) does not answer; the same call may succeed later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"
    retryable = True


class RetryLater(DriftwheelError):
    """The event this one depends on has not arrived yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "too_early"
    retryable = True


class Poison(DriftwheelError):
    """A message that can never be handled as it is: it goes to the dead letters at once."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "poison"


class Superseded(DriftwheelError):
    """A newer attempt of the same job exists: this one must stop and changes nothing."""

    status = HTTPStatus.CONFLICT
    code = "superseded"


class Cancelled(DriftwheelError):
    """Someone asked for this job to stop."""

    status = HTTPStatus.CONFLICT
    code = "cancelled"
