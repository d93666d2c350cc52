"""Every error this program raises on purpose.

SpeechError              shown to the client as it is: one sentence, no path, no trace
├── BadRequest           the caller can fix it (400)
├── NotLoaded            no checkpoint here can do that (400, names the variable that would)
├── NotAuthenticated     no key, or an unknown one (401)
├── NotAllowed           a key that may not do this (403)
├── NotFound             absent, or not yours (404)
├── TooLarge             more bytes than this server takes (413)
├── LimitReached         a quota or a rate is used up (429)
├── Overloaded           the waiting line is full, try again (503)
├── StorageFull          no room to keep it (507)
└── EngineFailed         the engine broke this request (500)

StartError               the program can't start; printed for a person, exit code 2
"""


class SpeechError(Exception):
    """Root of the tree; its text is shown to the client."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class BadRequest(SpeechError): ...


class NotLoaded(SpeechError): ...


class NotAuthenticated(SpeechError): ...


class NotAllowed(SpeechError): ...


class NotFound(SpeechError): ...


class TooLarge(SpeechError): ...


class LimitReached(SpeechError):
    """Says after how many whole seconds another try makes sense; None: not by waiting."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s


class Overloaded(SpeechError): ...


class StorageFull(SpeechError): ...


class EngineFailed(SpeechError): ...


class StartError(Exception):
    """One sentence for the person who starts the program: what is wrong and what would be right."""
