"""What a verification says: checks, five verdicts, an exit code, and a page of text.

A verdict is the worst of its decisive checks: failed, then not_checked, then passed.
`not_checked` is never counted as passed. Standard library only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from geoevidence.trust.errors import GeoEvidenceError, VerificationError
from geoevidence.trust.messages import render
from geoevidence.trust.policy import VERDICTS

PASSED, FAILED, NOT_CHECKED = "passed", "failed", "not_checked"
OK, BROKEN, INCOMPLETE, STALE, FORK, USAGE = 0, 1, 2, 3, 4, 64
"""Exit codes of every verifier."""
SHOWN = 40
"""Checks of one status written out in the text; `to_dict` has all."""


class Rule(NamedTuple):
    """number: as in the docstring of `checks`. decisive: counts towards the verdict when not checked."""

    number: str
    verdict: str
    decisive: bool = True


RULES = {
    "container": Rule("1.1", "intact"),
    "paths": Rule("1.2", "intact"),
    "layout": Rule("1.3", "intact"),
    "seal": Rule("1.4", "intact"),
    "manifests": Rule("1.5", "intact"),
    "listing": Rule("1.6", "intact"),
    "files": Rule("1.7", "intact"),
    "tags": Rule("1.8", "intact"),
    "tree": Rule("1.9", "intact"),
    "closing": Rule("1.10", "intact"),
    "keys": Rule("2.1", "signed"),
    "statement_signature": Rule("2.2", "signed"),
    "checkpoint_signatures": Rule("2.3", "signed"),
    "event_signatures": Rule("2.4", "signed"),
    "other_signatures": Rule("2.5", "signed"),
    "code": Rule("2.6", "signed", decisive=False),
    "trusted_keys": Rule("2.7", "signed"),
    "claimed_order": Rule("3.1", "time", decisive=False),
    "claimed_past": Rule("3.2", "time", decisive=False),
    "time_stamps": Rule("3.3", "time"),
    "cosignatures": Rule("3.4", "time"),
    "time_evidence": Rule("3.5", "time"),
    "attested": Rule("3.6", "time"),
    "events": Rule("4.1", "continuous"),
    "log_root": Rule("4.2", "continuous"),
    "packaged": Rule("4.3", "continuous"),
    "chains": Rule("4.4", "continuous"),
    "anchors": Rule("4.5", "continuous"),
    "inputs": Rule("4.6", "continuous"),
    "items": Rule("4.7", "continuous"),
    "disclosures": Rule("4.8", "continuous"),
    "findings": Rule("4.9", "continuous"),
    "attestations": Rule("4.10", "continuous"),
    "device_logs": Rule("4.11", "continuous"),
    "key_changes": Rule("4.12", "continuous"),
    "rollback": Rule("4.13", "continuous", decisive=False),
    "witnesses": Rule("4.14", "continuous"),
    "withheld": Rule("4.15", "continuous"),
    "supplement_of": Rule("4.16", "continuous"),
    "recompute": Rule("5.1", "recomputes"),
    "recompute_trusted": Rule("5.2", "recomputes"),
}
"""Every check by name, in the order of its number (docs/formats/verify.md)."""
SUPPLEMENT_CHECKS = (
    "container", "paths", "layout", "seal", "manifests", "listing", "files", "tags", "closing", "keys", "statement_signature",
    "other_signatures", "trusted_keys", "claimed_past", "time_stamps", "attested", "supplement_of", "recompute",
)  # fmt: skip
"""Checks of a supplement."""
PACKAGE_CHECKS = tuple(name for name in RULES if name != "supplement_of")
"""Checks of a package or a redacted copy."""
MOST_KEPT = 5000
"""Failures of one check that are kept one by one; the rest is counted, so that a report cannot grow without bound."""


@dataclass(frozen=True)
class Check:
    """One answer.

    name: of `RULES`. subject: the file, event or key it is about.
    status: passed, failed or not_checked.
    expected, found: what was compared, as text, or None.
    detail, values: message id and values that say what is wrong or missing; "" where nothing is.
    """

    name: str
    subject: str
    status: str
    expected: Optional[str] = None
    found: Optional[str] = None
    detail: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> str:
        return RULES[self.name].number

    @property
    def verdict(self) -> str:
        return RULES[self.name].verdict

    def to_dict(self, lang: str = "en") -> dict[str, Any]:
        return {
            "number": self.number,
            "verdict": self.verdict,
            "name": self.name,
            "subject": plain(self.subject),
            "status": self.status,
            "expected": self.expected,
            "found": self.found,
            "detail": self.detail,
            "text": plain(render(self.detail, self.values, lang)) if self.detail else "",
        }


class Ledger:
    """The checks of one verification while it runs."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Check]] = {}
        self._more: dict[str, int] = {}
        self._statuses: dict[str, set[str]] = {}

    def add(self, check: Check) -> None:
        """Keep a check, or count it where many of its name are kept."""
        self._statuses.setdefault(check.name, set()).add(check.status)
        kept = self._kept.setdefault(check.name, [])
        if len(kept) < MOST_KEPT or check.status == PASSED:
            kept.append(check)
        else:
            self._more[check.name] = self._more.get(check.name, 0) + 1

    def fail(self, name: str, subject: str, detail: str, /, *, expected: Any = None, found: Any = None, **values: Any) -> None:
        """The check failed for `subject`; `detail` is a message id."""
        self.add(Check(name, subject, FAILED, _text(expected), _text(found), detail, values))

    def fail_by(self, name: str, subject: str, error: GeoEvidenceError) -> None:
        """The check failed for what an error says."""
        values = dict(error.values)
        expected, found = _text(values.get("expected")), _text(values.get("found"))
        self.add(Check(name, subject, FAILED, expected, found, error.message_id, values))

    def skip(self, name: str, subject: str, detail: str, /, **values: Any) -> None:
        """The check could not be made for `subject`."""
        self.add(Check(name, subject, NOT_CHECKED, None, None, detail, values))

    def skip_because(self, name: str, subject: str, cause: str) -> None:
        """The check could not be made because check `cause` did not pass."""
        self.skip(name, subject, "trust.because", check=RULES[cause].number)

    def close(self, name: str, subject: str, count: Optional[int] = None) -> None:
        """The check passed, unless it already failed or could not be made somewhere."""
        if name not in self._statuses:
            self.add(Check(name, subject, PASSED, None, None if count is None else str(count)))

    def has(self, name: str) -> bool:
        return name in self._statuses

    def failed(self, *names: str) -> bool:
        return any(FAILED in self._statuses.get(name, ()) for name in names)

    def spoilt(self, name: str) -> bool:
        """It was made or tried, and did not pass."""
        return self.has(name) and not self.passed(name)

    def passed(self, name: str) -> bool:
        """It passed for all that it was asked for."""
        return self._statuses.get(name) == {PASSED}

    def sorted(self) -> tuple[Check, ...]:
        """All checks in the order of the numbers; what was only counted is said last."""
        result: list[Check] = []
        for name in RULES:
            result += self._kept.get(name, [])
            if name in self._more:
                status = FAILED if self.failed(name) else NOT_CHECKED
                result.append(Check(name, "...", status, None, None, "trust.and_more", {"count": self._more[name]}))
        return tuple(result)


def _text(value: Any) -> Optional[str]:
    return None if value is None else str(value)


@dataclass(frozen=True)
class Claim:
    """An event as it is claimed. after, before: what others attest of its time, UTC text, or None."""

    event_id: str
    type: str
    role: str
    time_claimed: str
    after: Optional[str] = None
    before: Optional[str] = None


@dataclass(frozen=True)
class Signer:
    """A key that signed something here.

    label: claimed in the package. holder: by the policy, or None. revoked: tree size from which the key
    says nothing more, by the policy or the log itself; what was logged before stays valid. None: it never ended.
    """

    key_id: str
    algorithm: str
    label: str
    holder: Optional[str]
    revoked: Optional[int] = None


@dataclass(frozen=True)
class VerificationReport:
    """The result of `verify_package`.

    package: name of the folder or archive.
    kind: `package`, `redacted` or `supplement`.
    required: verdicts the policy asks for.
    builtin_policy: no trust file was given.
    checks: every check, in the order of the numbers; failures one by one, each with its file.
    facts: case, workspace, software, time_claimed, attested_after, attested_before, files, bytes, leaves, withheld,
        short_code, demonstration; what could not be read is missing.
    stale: a later checkpoint of the log is known. fork: another history of the log is known.
    fork_proof: texts of the note known and of the one here, or None.
    supplements: reports of the supplements given with the package.
    """

    package: str
    required: tuple[str, ...]
    builtin_policy: bool
    checks: tuple[Check, ...]
    facts: Mapping[str, Any]
    claims: tuple[Claim, ...]
    signers: tuple[Signer, ...]
    stale: bool = False
    fork: bool = False
    kind: str = "package"
    fork_proof: Optional[tuple[str, str]] = None
    supplements: tuple[VerificationReport, ...] = ()

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict name -> status, in the order they are said."""
        result = {}
        for verdict in VERDICTS:
            own = [check for check in self.checks if check.verdict == verdict]
            statuses = {check.status for check in own if check.status == FAILED or RULES[check.name].decisive}
            result[verdict] = next((each for each in (FAILED, NOT_CHECKED) if each in statuses), PASSED)
        return result

    @property
    def exit_code(self) -> int:
        """0 all required passed, 1 broken, 2 incomplete or unknown trust, 3 stale, 4 fork of the log.

        The worst of this and of the supplements: 4, 1, 3, 2, 0.
        """
        verdicts = self.verdicts
        if self.fork:
            own = FORK
        elif FAILED in verdicts.values():
            own = BROKEN
        elif self.stale:
            own = STALE
        else:
            own = OK if all(verdicts[name] == PASSED for name in self.required) else INCOMPLETE
        return max((own, *(each.exit_code for each in self.supplements)), key=(OK, INCOMPLETE, STALE, BROKEN, FORK).index)

    @property
    def verified(self) -> bool:
        """All that the policy requires passed, and nothing failed."""
        return self.exit_code == OK

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == FAILED)

    def require(self) -> VerificationReport:
        """This report. Raises VerificationError unless `verified`; it names the first failed check and its file."""
        if self.verified:
            return self
        open_checks = [c for c in self.checks if c.status == NOT_CHECKED and c.verdict in self.required]
        first = next(iter(self.failures or open_checks), None)
        raise VerificationError(
            "trust.not_verified",
            package=self.package,
            exit_code=self.exit_code,
            check=first.number if first else RULES["rollback"].number,
            subject=plain(first.subject) if first else self.package,
        )

    @property
    def limits(self) -> tuple[str, ...]:
        """Message ids of what this verification does not prove."""
        verdicts = self.verdicts
        limits = ["trust.limit.content", "trust.limit.stolen"]
        if verdicts["signed"] != PASSED:
            limits.append("trust.limit.who")
        if verdicts["time"] != PASSED:
            limits.append("trust.limit.time")
        if self.kind != "supplement":
            if not any(check.name == "rollback" and check.status == PASSED for check in self.checks):
                limits.append("trust.limit.rollback")
            if not self.facts.get("witnesses"):
                limits.append("trust.limit.fork")
        if verdicts["recomputes"] != PASSED:
            limits.append("trust.limit.recompute")
        if self.kind == "redacted":
            limits.append("trust.limit.redacted")
        if self.facts.get("demonstration"):
            limits.append("trust.limit.demonstration")
        return (*limits, "trust.limit.attributes")

    def to_dict(self, lang: str = "en") -> dict[str, Any]:
        """The whole report for machines; `lang` chooses the language of its texts."""
        proof = None if self.fork_proof is None else dict(zip(("known", "here"), self.fork_proof))
        return {
            "schema": "geoevidence.verification.v2",
            "kind": self.kind,
            "package": plain(self.package),
            "verdicts": self.verdicts,
            "required": list(self.required),
            "builtin_policy": self.builtin_policy,
            "exit_code": self.exit_code,
            "stale": self.stale,
            "fork": self.fork,
            "fork_proof": proof,
            "facts": dict(self.facts),
            "checks": [check.to_dict(lang) for check in self.checks],
            "claims": [dict(vars(claim)) for claim in self.claims],
            "signers": [dict(vars(signer)) for signer in self.signers],
            "limits": [{"id": limit, "text": render(limit, {}, lang)} for limit in self.limits],
            "supplements": [each.to_dict(lang) for each in self.supplements],
        }

    def render(self, lang: str = "zh") -> str:
        """The report as text, in Chinese or English."""

        def say(message: str, **values: Any) -> str:
            return render(message, {name: plain(value) for name, value in values.items()}, lang)

        lines = [say(f"trust.report.title.{self.kind}", package=self.package)]
        known = self.facts
        if "case" in known:
            lines.append(
                say("trust.report.case", **{name: known[name] for name in ("case", "workspace", "software", "time_claimed")})
            )
        if "attested_before" in known:
            after, before = known["attested_after"], known["attested_before"]
            lines.append(say("trust.report.attested" if after else "trust.report.attested_before", after=after, before=before))
        if "files" in known:
            lines.append(
                say("trust.report.size", files=known["files"], bytes=f"{known['bytes']:,}", leaves=known.get("leaves", "-"))
            )
        if known.get("withheld"):
            lines.append(say("trust.report.withheld", withheld=known["withheld"]))
        if known.get("demonstration"):
            lines.append(say("trust.report.demonstration"))
        lines += ["", say("trust.report.verdicts")]
        names = {name: say(f"trust.verdict.{name}") for name in VERDICTS}
        column = max(_width(name) for name in names.values()) + 2
        for name, status in self.verdicts.items():
            text = f"  {_pad(names[name], column)}{say('trust.status.' + status)}"
            required = say("trust.report.required") if name in self.required else ""
            reason = self._reason(name, status, lang)
            lines.append("  ".join(part for part in (text, required, reason) if part))
        for status in (FAILED, NOT_CHECKED):
            chosen = [check for check in self.checks if check.status == status]
            if chosen:
                lines += ["", say(f"trust.report.{status}", count=len(chosen))]
            for check in chosen[:SHOWN]:
                lines.append(f"  {check.number} {say('trust.check.' + check.name)}: {plain(check.subject)}")
                if check.expected is not None:
                    lines.append("      " + say("trust.report.expected", value=check.expected))
                if check.found is not None:
                    lines.append("      " + say("trust.report.found", value=check.found))
                if check.detail:
                    lines.append("      " + say(check.detail, **check.values))
            if len(chosen) > SHOWN:
                lines.append("  " + say("trust.report.more", count=len(chosen) - SHOWN))
        open_checks = {check.name for check in self.checks if check.status != PASSED}
        passed = list(dict.fromkeys(check.name for check in self.checks if check.name not in open_checks))
        if passed:
            shown = [f"{RULES[name].number} {say('trust.check.' + name)}" for name in passed]
            lines += ["", say("trust.report.passed", count=len(passed)), "  " + say("trust.report.separator").join(shown)]
        if self.fork_proof is not None:
            lines += ["", say("trust.report.fork_proof")]
            lines += [f"    {plain(line)}" for text in self.fork_proof for line in (*text.splitlines(), "")]
        lines += self._render_signers(lang) + self._render_claims(lang)
        lines += ["", say("trust.report.limits")] + [f"  - {say(limit)}" for limit in self.limits]
        if "short_code" in known:
            lines += ["", say("trust.report.short_code", code=known["short_code"], size=known["tree_size"])]
        for each in self.supplements:
            lines += ["", "-" * 60, each.render(lang).rstrip("\n")]
        lines += ["", say(f"trust.exit.{self.exit_code}"), ""]
        return "\n".join(lines)

    def _reason(self, verdict: str, status: str, lang: str) -> str:
        if verdict == "signed" and status == NOT_CHECKED and self.builtin_policy:
            return render("trust.policy_none", {}, lang)
        return ""

    def _render_signers(self, lang: str) -> list[str]:
        lines = ["", render("trust.report.signers", {}, lang)] if self.signers else []
        for signer in self.signers:
            values = {
                "key_id": signer.key_id,
                "algorithm": signer.algorithm,
                "label": plain(signer.label),
                "holder": plain(signer.holder or ""),
            }
            lines.append("  " + render("trust.report.signer" if signer.holder else "trust.report.signer_unknown", values, lang))
            if signer.revoked is not None:
                lines.append("    " + render("trust.report.signer_ended", {"size": signer.revoked}, lang))
        return lines

    def _render_claims(self, lang: str) -> list[str]:
        lines = ["", render("trust.report.claims", {}, lang)] if self.claims else []
        for claim in self.claims[:SHOWN]:
            kind = render(f"trust.event.{claim.type}", {}, lang)
            attested = ""
            if claim.before or claim.after:
                attested = "  " + render(
                    "trust.report.interval", {"after": claim.after or "-", "before": claim.before or "-"}, lang
                )
            lines.append(f"  {claim.time_claimed}  {claim.event_id}  {kind}  ({plain(claim.role)}){attested}")
        if len(self.claims) > SHOWN:
            lines.append("  " + render("trust.report.more", {"count": len(self.claims) - SHOWN}, lang))
        return lines


def plain(text: Any) -> str:
    """Text that is safe on a terminal: control, format and surrogate characters are written out, so that a
    hostile file name cannot move the cursor or turn the reading direction."""
    return "".join(
        f"\\u{{{ord(character):x}}}" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character
        for character in str(text)
    )


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
