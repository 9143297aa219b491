"""The command line of verify.pyz.

    python3 verify.pyz [PACKAGE] [--trust FILE] [--checkpoint FILE]... [--code CODE] [--supplement PATH]...
                       [--package PATH] [--slow] [--lang zh|en] [--json]

PACKAGE is a folder or a zip; left out, it is the package that verify.pyz lies in. Prints the
report; exit codes are those of `VerificationReport.exit_code`, 64 for wrong usage. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import locale
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn, Optional

from geoevidence.trust import messages
from geoevidence.trust.checks import verify_package
from geoevidence.trust.errors import GeoEvidenceError, InputError
from geoevidence.trust.policy import parse_policy
from geoevidence.trust.verdict import USAGE, plain

_MAX_ARGUMENT_FILE = 16 << 20


class _Usage(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Usage(message)


def default_language() -> str:
    """`en` where the locale names a language other than Chinese, else `zh`."""
    named = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), None)
    if named is None:
        # the raw name: `getlocale` calls the C locale en_US
        named = locale.setlocale(locale.LC_CTYPE)
    known = named.lower() not in ("", "c", "posix") and not named.lower().startswith(("c.", "zh", "chinese"))
    return "en" if known else "zh"


def _own_archive() -> Optional[Path]:
    """The verify.pyz that is running, or None where the kernel runs as installed sources."""
    archive = getattr(globals().get("__loader__"), "archive", None)
    return Path(archive).resolve() if archive else None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_ARGUMENT_FILE + 1)
    except (OSError, ValueError) as error:
        raise InputError("trust.cannot_read", path=path, reason=str(error)) from error
    if len(data) > _MAX_ARGUMENT_FILE:
        raise InputError("trust.cannot_read", path=path, reason=f"> {_MAX_ARGUMENT_FILE} B")
    return data


def _parser(lang: str) -> _Parser:
    def say(name: str) -> str:
        return messages.render(f"trust.cli.{name}", {}, lang)

    parser = _Parser(prog="verify.pyz", description=say("description"), epilog=say("exit_codes"))
    parser.add_argument("package", nargs="?", metavar="PACKAGE", help=say("package"))
    parser.add_argument("--trust", metavar="FILE", help=say("trust"))
    parser.add_argument("--checkpoint", metavar="FILE", action="append", default=[], help=say("checkpoint"))
    parser.add_argument("--code", metavar="CODE", help=say("code"))
    parser.add_argument("--supplement", metavar="PATH", action="append", default=[], help=say("supplement"))
    parser.add_argument("--package", dest="of", metavar="PATH", help=say("of"))
    parser.add_argument("--slow", action="store_true", help=say("slow"))
    parser.add_argument("--lang", choices=messages.LANGUAGES, help=say("lang"))
    parser.add_argument("--json", action="store_true", help=say("json"))
    return parser


def _self_words(own: Optional[Path], package: Path, lang: str) -> tuple[list[str], dict[str, object]]:
    """What is said about the program itself: its digest, and whether it lies in the package it checks."""
    if own is None:
        return [messages.render("trust.self.sources", {}, lang)], {"digest": None, "inside": False}
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    words = [messages.render("trust.self.digest", {"path": plain(own.name), "digest": digest}, lang)]
    inside = package.resolve() in own.parents
    if inside:
        words.append(messages.render("trust.self.inside", {}, lang))
    return words, {"digest": f"sha256:{digest}", "inside": inside}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: words after the program's name; None: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    lang = default_language()
    if "--lang" in words[:-1] and words[words.index("--lang") + 1] in messages.LANGUAGES:
        lang = words[words.index("--lang") + 1]
    try:
        options = _parser(lang).parse_args(words)
        own = _own_archive()
        if options.package is None and (own is None or not (own.parent / "bagit.txt").is_file()):
            raise _Usage(messages.render("trust.cli.no_package", {}, lang))
        package = Path(options.package) if options.package is not None else own.parent  # type: ignore[union-attr]
        policy = parse_policy(_read(options.trust), where=options.trust) if options.trust else None
        report = verify_package(
            package,
            policy=policy,
            known_checkpoints=[_read(path) for path in options.checkpoint],
            code=options.code,
            supplements=options.supplement,
            package=options.of,
            now=datetime.now(timezone.utc),
            slow=options.slow,
        )
        lines, itself = _self_words(own, package, lang)
    except _Usage as error:
        sys.stderr.write(f"verify.pyz: {error}\n{_parser(lang).format_usage()}")
        return USAGE
    except GeoEvidenceError as error:
        sys.stderr.write(f"verify.pyz: {plain(error.render(lang))}\n")
        return USAGE
    if options.json:
        document = {**report.to_dict(lang), "verifier": itself}
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    else:
        sys.stdout.write(report.render(lang) + "\n".join([*lines, ""]))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
