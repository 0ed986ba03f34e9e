"""Phone numbers that are users of a Matrix server, by configuration.

`+1 555 123 4567` is `@15551234567:example.org` with the template `@{digits}:example.org`.
Spec: draft-ralston-mimi-matrix-framework-01, Identity.
"""

from __future__ import annotations

from bridge.errors import BadInput, Misconfigured
from bridge.identity.addresses import PhoneNumber, check_prefix
from bridge.identity.resolver import Asked, NumberTemplate, Resolved, SourceSettings
from bridge.ids import UserId, parse_user_id

NAME = "template"
_LONGEST = "9" * 15


class Templates:
    """The template with the longest fitting prefix counts."""

    name = NAME

    def __init__(self, settings: SourceSettings) -> None:
        for template in settings.numbers:
            check_prefix(template.prefix, "identity.numbers")
            try:
                _fill(template, PhoneNumber(digits=_LONGEST))
            except BadInput as exc:
                raise Misconfigured("identity.numbers", exc.reason) from exc
        self._templates = sorted(settings.numbers, key=lambda one: -len(one.prefix))
        self._conversions = settings.conversions

    async def find(self, asked: Asked) -> Resolved | None:
        if asked.number is None:
            return None
        user_id = find_user(self._templates, asked.number)
        if user_id is None:
            return None
        return Resolved(user_id=user_id, address=self._conversions.to_address(user_id), source=NAME)


def find_user(templates: list[NumberTemplate], number: PhoneNumber) -> UserId | None:
    """`templates` with the longest prefix first."""
    for template in templates:
        if number.e164.startswith(template.prefix):
            return _fill(template, number)
    return None


def _fill(template: NumberTemplate, number: PhoneNumber) -> UserId:
    return parse_user_id(template.user.replace("{digits}", number.digits))
