"""Sessions that cannot be used, and calls that a session's listener does not take."""

from __future__ import annotations

from akpolicy.errors.base import AkpolicyError


class SessionError(AkpolicyError):
    """A question of a session that gets no decision."""


class SessionUnknown(SessionError):
    """No session has this token: it is forged, of another host, or the sidecar was restarted since."""


class SessionClosed(SessionError):
    """The session was closed."""


class SessionExpired(SessionError):
    """The session, or the identity that it was opened for, is past its end."""


class SessionRateLimited(SessionError):
    """The session asks more often than it may."""


class SessionQuotaExhausted(SessionError):
    """The session has had as many decisions recorded as it may within an hour."""


class SessionRequired(SessionError):
    """A call on the session socket without a session, or one that the session socket does not take."""


class TooManySessions(SessionError):
    """As many sessions are open as the sidecar keeps."""


class ForeignOrg(SessionError):
    """A session for a principal or a resource of another org than the sidecar's."""


class TooManyQuestionStreams(SessionError):
    """As many streams of questions are open as the sidecar serves."""
