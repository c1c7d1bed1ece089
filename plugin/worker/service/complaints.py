"""Find the error in an answer: the error code, and the message for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from plugin.worker.service.answer_text import HOLDERS, holders, is_whole, parsed, text

_GOOD = {"", "0", "200", "201", "202", "ok", "success", "none"}
"""Values that services put where an error code belongs, but that mean success."""
_REFUSED = (
    r"(?s)(400|401|402|403|405|413|415|422|429|451)"
    r"|.*(moderation|content_policy|content_filter|policy_violation|safety|sensitive|prohibited"
    r"|invalid_(request|api_key|key|token|reference|image|mask|param|prompt|size|model|argument"
    r"|input|value)|bad_request|validation_error|unprocessable|missing_|unsupported|too_large"
    r"|insufficient|quota|arrears|payment_required|billing_hard_limit|billing_not_active"
    r"|unauthori[sz]ed|authentication|permission|forbidden|not_allowed|access_denied"
    r"|model_not_found|rate_limit|too_many_requests).*"
)
"""A pattern for error codes that mean that the service made no picture. Messages for people are not
used to decide this, because their words prove nothing, and the user would pay twice for an edit
that is wrongly repeated."""
_MISSING = r"(?s)404|410|.*(not_?found|not_?exist|no_such|unknown_task).*"
_PASSING = (
    r"(?s)(408|429|5\d\d)|.*(rate_limit|too_many|busy|overload|timeout|timed_out|unavailable"
    r"|internal|upstream|server_error).*"
)
"""A pattern for codes of temporary errors, which say nothing about the task itself."""
PASSING_WORDS = (
    r"(?i)rate.?limit|too many|busy|overload|time(d )?.?out|unavailable|try again|later"
    r"|频繁|繁忙|稍后|超时"
)
"""A pattern for the messages of temporary errors, for errors without a code."""


@dataclass(frozen=True)
class Trouble:
    """An error in the body of an answer. The HTTP status of the answer can still mean success."""

    code: str
    """The error code in lower case, or "" if the answer contains none."""
    words: str
    """The message for people, from which secrets have not been removed."""
    invalid: bool = False
    """Whether the error lists what is invalid in the request."""

    @property
    def refused(self) -> bool:
        """Whether the service certainly made no picture, so that sending again is safe."""
        return self.invalid or bool(re.fullmatch(_REFUSED, self.code))

    @property
    def missing(self) -> bool:
        """Whether the error says that there is no such task."""
        return bool(re.fullmatch(_MISSING, self.code))

    @property
    def passing(self) -> bool:
        """Whether the error is temporary, so that another try may succeed."""
        return bool(re.fullmatch(_PASSING, self.code))


def trouble(told: Any) -> Trouble | None:
    """Return the error in the parsed JSON of an answer, or None if there is no error."""
    for holder in holders(told):
        told_so = [holder.get(name) for name in ("error", "errors", "err")]
        said_no = any(holder.get(name) is False for name in ("success", "ok"))
        detail = holder.get("detail")
        code = error_code(holder)
        if any(told_so) or said_no or code not in _GOOD or (detail and not holder.get("data")):
            listed = isinstance(detail, list) and any(
                isinstance(each, dict) and "loc" in each for each in detail
            )
            return Trouble(code, words(holder), listed)
    return None


def error_code(told: Any) -> str:
    """Return the most specific error code in parsed JSON in lower case, or "" if it has none."""
    return next(error_names(told), "")


def error_names(told: Any) -> Iterator[str]:
    """Yield the codes and types of an error in parsed JSON, in lower case, most specific first."""
    if not isinstance(told, dict):
        return
    error = told.get("error")
    holders = [(error, ("code", "type", "status")), (told, ("code", "error_code", "errcode"))]
    for holder, names in holders:
        for name in names:
            value = holder.get(name) if isinstance(holder, dict) else None
            if value and (isinstance(value, str) or is_whole(value)):
                yield re.sub(r"[\s-]+", "_", str(value)[:200].strip()).lower()
    if is_whole(told.get("status")) and told["status"] >= 400:
        yield str(told["status"])[:200]
    if isinstance(error, str) and re.fullmatch(r"[a-z0-9_.-]{1,60}", error):
        yield error.replace("-", "_")


_SPOKEN = (
    *("error_description", "message", "msg", "detail", "details", "reason", "error_message"),
    *("error_msg", "errmsg", "fail_reason", "failure_reason", "failMsg", "failReason"),
    *("description", "title", "error", "errors", "err"),
)
"""Names of error messages for people, the most useful first."""


def words(told: Any, depth: int = 0) -> str:
    """Return the message for people in parsed JSON, or "" if there is none.

    Secrets are not removed from the message.
    """
    if isinstance(told, str):
        return told
    if depth > 5:
        return ""
    if isinstance(told, list):
        return "; ".join(filter(None, (words(each, depth + 1) for each in told[:3])))
    if not isinstance(told, dict):
        return ""
    if isinstance(place := told.get("loc"), list) and isinstance(message := told.get("msg"), str):
        return f"{'.'.join(str(part) for part in place[:6])}: {message}"
    # Read an error object first, because it says more than a short message beside the object.
    first = [name for name in ("error", "errors") if isinstance(told.get(name), (dict, list))]
    for name in (*first, *_SPOKEN, *HOLDERS):
        value = told.get(name)
        if name in HOLDERS and not isinstance(value, dict):
            continue
        if found := words(value, depth + 1):
            return found
    if depth:
        # This object names fields of the request, each with a list of errors in the field.
        lists = [(name, value) for name, value in told.items() if isinstance(value, list)]
        return "; ".join(f"{name}: {words(value, depth + 1)}" for name, value in lists[:3])
    return ""


def said(body: bytes, content_type: str = "") -> str:
    """Return the message for people in the body of an answer, or "" if there is none.

    The message is taken from JSON, from the title of a web page, or from plain text. Secrets are
    not removed from the message.
    """
    told = parsed(body, content_type)
    if told is not None:
        return words(told)
    whole = text(body[:4000], content_type)
    if whole.lstrip()[:1] in ("{", "["):
        # This looks like JSON but can't be parsed, so its message can't be told from the rest.
        return ""
    title = re.search(r"<title[^>]*>(.*?)</title>", whole, re.IGNORECASE | re.DOTALL)
    if title:
        # Import the module only here, because the import is slow and few answers are web pages.
        import html

        return html.unescape(title[1])
    return "" if "<" in whole else whole
