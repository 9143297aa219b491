"""The root of the error tree, with what the verifier itself may raise.

    GeoEvidenceError
    |-- InputError
    |   `-- FormatError
    `-- VerificationError
        |-- CertificateError
        |-- ProofError
        |-- SignatureError
        `-- UnsupportedError

`geoevidence.errors` adds the rest. An error is a message id with values, so that
it can be said in Chinese or in English; the values are attributes of the error.
Standard library only, Python 3.9+.
"""

from __future__ import annotations

from typing import Any

from geoevidence.trust import messages


class GeoEvidenceError(Exception):
    """A problem that a user can understand: what is wrong, where, what to do.

    Args:
        message_id: key of the text in the message catalogues, such as `input.empty_folder`.
        values: named values of the text; also kept in `self.values`.
    """

    def __init__(self, message_id: str, **values: Any) -> None:
        self.message_id = message_id
        self.values = values
        super().__init__(message_id)

    def render(self, lang: str = "en") -> str:
        """The message in `lang` ("zh" or "en"); values that are errors themselves are rendered in it too."""
        shown = {
            name: value.render(lang) if isinstance(value, GeoEvidenceError) else value for name, value in self.values.items()
        }
        return messages.render(self.message_id, shown, lang)

    def __str__(self) -> str:
        return self.render("en")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message_id, self.values))


def _rebuild(kind: type[GeoEvidenceError], message_id: str, values: dict[str, Any]) -> GeoEvidenceError:
    return kind(message_id, **values)


class InputError(GeoEvidenceError):
    """Something that came from outside cannot be used."""


class FormatError(InputError):
    """Bytes are not what their format asks."""


class VerificationError(GeoEvidenceError):
    """A claim does not hold."""


class CertificateError(VerificationError):
    """A certificate does not lead to a trusted root, or may not be used so, or not at that time."""


class ProofError(VerificationError):
    """A Merkle proof does not lead to the stated root."""


class SignatureError(VerificationError):
    """A signature does not fit its key and payload."""


class UnsupportedError(VerificationError):
    """This verifier does not know what it would take to check the claim: not checked, which is not refuted."""
