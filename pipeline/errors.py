"""Errors for users: of a request, of one input, or of a whole job; and the exit codes of jobs."""

from __future__ import annotations

import signal
from typing import ClassVar

#: Exit codes of jobs. SIGINT and SIGTERM end a job with 130 and 143.
DONE, FAILED, WRONG_REQUEST, ERROR_BUDGET, GATE, TIME_LIMIT = 0, 1, 2, 3, 4, 5


class RequestError(ValueError):
    """The request is wrong: a setting, a folder or a package, say. Jobs print it in one line and exit with 2."""


#: All values of ``error.code`` in tables, with what they say about the input.
ERROR_CODES = {
    "not_found": "the object is gone",
    "forbidden": "the store refuses to read the object",
    "timeout": "the store did not answer in time",
    "unreadable": "the store failed to read the object",
    "too_large": "more bytes than the limit for one input",
    "empty": "no bytes",
    "changed": "the object is not the one that was listed",
    "bad_archive": "the compressed file or container that holds the input is broken, or has no column of inputs",
    "bad_record": "the record is not a JSON object with a text",
    "not_an_image": "the bytes are no image format that is read here",
    "truncated": "the data end before the image does",
    "too_many_pixels": "more pixels than the limit for one image",
    "bad_label": "the label is no 8-bit image of the image's size, or has an unknown class",
    "not_text": "the bytes are not text",
    "bad_encoding": "the bytes are not valid in the expected encoding",
    "bad_document": "the file is broken, or not of the format that its name or its first bytes say",
    "other_data": "the file is sound, and no document: JSON that is no transcript",
    "encrypted": "the document needs a password",
    "no_ocr": "the document is to be read by OCR, which is not installed here",
    "no_text": "the document has no text, such as a scan whose pages are images",
    "no_paragraphs": "the document does not say where its paragraphs begin, so it is no truth",
    "too_long": "more characters or pages than the limit for one document",
    "crashed": "the worker process died of this input",
    "out_of_memory": "the input does not fit into memory even alone",
    "internal": "the pipeline failed on this input",
}


#: Codes of inputs that are as they should be, and only not for this task. They do not count as failures of a run.
NOT_FOR_THE_TASK = frozenset({"other_data"})


class InputError(Exception):
    """One input cannot be processed; other inputs are not affected.

    ``code`` is one of `ERROR_CODES`. ``message`` is written by this project and depends only on the input, so that a
    second run writes the same row. The exception of a library stays chained as the cause.
    """

    def __init__(self, code: str, message: str) -> None:
        assert code in ERROR_CODES, code
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return (type(self), (self.code, self.message))


class JobFailed(RuntimeError):
    """A job cannot continue. The message is for users. Everything that the job has committed stays."""

    status: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = FAILED


class Stopped(BaseException):
    """SIGINT or SIGTERM has arrived. Not an `Exception`, so that no handler of failures catches it."""

    status: ClassVar[str] = "stopped"

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number
