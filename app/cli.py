"""The command `geoevidence`: its root, its entry point, and the exit codes.

The commands stand in `app.commands`, each parsing, calling one public function, printing. Results go to stdout (`--json` for
machines), progress and warnings to stderr. A problem is one clear message with what to do, never a traceback. Exit codes:
0 done, 1 a problem with the data (or a broken package), 2 incomplete or unknown trust, 3 stale, 4 fork of the log, 64 wrong
usage, 70 a fault of the program itself.
Heavy packages load inside the commands that need them; `ingest`, `inspect`, `package` and `verify` need none.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from app.commands import (
    ASKED_LANG,
    DEFAULT_WORKSPACE,
    EXIT_DATA,
    EXIT_FAULT,
    EXIT_USAGE,
    LANG,
    Json,
    LangOption,
    Workspace,
    alerts,
    assess,
    cases,
    custody,
    drone_compare,
    emit,
    engines,
    group,
    keys,
    packages,
    rendered,
    scan,
    show_progress,
    text_of,
)
from geoevidence import __version__
from geoevidence.errors import ConfigError, GeoEvidenceError
from geoevidence.messages import LANGUAGES, render
from geoevidence.types import Message


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help=text_of("cli.demo.out"))] = Path("demo"),
    flight: Annotated[Path | None, typer.Option("--flight", help=text_of("cli.demo.flight"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.demo import run_demo

    with show_progress() as progress:
        summary = run_demo(out, flight=flight, progress=progress, say=lambda text: typer.echo(text, err=as_json), lang=LANG)
    emit(as_json, summary, [])


def serve(
    port: Annotated[int, typer.Option("--port", help=text_of("cli.serve.port"))] = 8501,
    host: Annotated[str, typer.Option("--host", help=text_of("cli.serve.host"))] = "127.0.0.1",
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
) -> None:
    from app.server import serve as run_server

    run_server(workspace, host=host, port=port)


def version() -> None:
    typer.echo(__version__)


app = group("cli.help")  # help lists the commands in this order
app.command(help=text_of("cli.init.help"))(cases.init)
app.command(help=text_of("cli.demo.help"))(demo)
app.command(help=text_of("cli.ingest.help"))(cases.ingest)
app.command(help=text_of("cli.inspect.help"))(cases.inspect)
app.command(help=text_of("cli.report.help"))(packages.report)
app.command(help=text_of("cli.verify.help"))(packages.verify)
app.command(help=text_of("cli.recompute.help"))(packages.recompute)
app.command(help=text_of("cli.serve.help"))(serve)
app.command(help=text_of("cli.version.help"))(version)
app.add_typer(cases.case_app, name="case")
app.add_typer(custody.custody_app, name="custody")
app.add_typer(custody.tsa_app, name="tsa")
app.add_typer(custody.witness_app, name="witness")
app.add_typer(keys.key_app, name="key")
app.add_typer(keys.trust_app, name="trust")
app.add_typer(drone_compare.drone_app, name="drone")  # with those of `engines` and `drone_check`
app.add_typer(scan.satellite_app, name="satellite")  # with those of `engines`
engines.satellite_app.add_typer(alerts.alerts_app, name="alerts")
engines.satellite_app.add_typer(assess.assess_app, name="assess")
app.add_typer(packages.package_app, name="package")


def _os_message(error: OSError) -> Message:
    import errno

    known = {
        errno.ENOSPC: "cli.disk_full",
        errno.EROFS: "cli.read_only",
        errno.EACCES: "cli.no_permission",
        errno.EPERM: "cli.no_permission",
    }
    values = {"path": str(error.filename or "-"), "reason": error.strerror or str(error)}
    return Message(id=known.get(error.errno or 0, "cli.os_error"), values=values)


def _missing_extra(error: ImportError) -> str:
    return text_of("cli.missing_extra", module=error.name or str(error))


def main() -> None:
    """Entry point: runs the command and turns every problem into one message and an exit code."""
    for name in ("PROJ_DATA", "PROJ_LIB"):  # they break rasterio's own PROJ
        os.environ.pop(name, None)
    if ASKED_LANG not in LANGUAGES:
        typer.echo(render("cli.unknown_language", {"found": ASKED_LANG}, "en"), err=True)
        sys.exit(EXIT_USAGE)
    try:
        code = app(standalone_mode=False, prog_name="geoevidence")
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        typer.echo(text_of("cli.interrupted"), err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        typer.echo(text_of("cli.interrupted"), err=True)
        sys.exit(130)
    except GeoEvidenceError as error:
        typer.echo(rendered(error), err=True)
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_DATA)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_DATA)
    except OSError as error:
        typer.echo(rendered(_os_message(error)), err=True)
        sys.exit(EXIT_DATA)
    except ImportError as error:
        typer.echo(_missing_extra(error), err=True)
        sys.exit(EXIT_FAULT)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(
            error, "format_message"
        ):  # click's usage errors, whichever click typer carries
            error.show()  # type: ignore[attr-defined]
            sys.exit(EXIT_USAGE)
        handle, path = tempfile.mkstemp(prefix="geoevidence-fault-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            traceback.print_exc(file=stream)
        typer.echo(text_of("cli.fault", error=f"{type(error).__name__}: {error}", path=path), err=True)
        sys.exit(EXIT_FAULT)


if __name__ == "__main__":
    main()
