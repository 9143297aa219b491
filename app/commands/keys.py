"""Commands for keys and for trust: `key ...` (the keys of this device), `trust ...` (whose keys a verifier believes).

Private keys stay in the key folder and passphrases come from the terminal or the environment, never from the command line.
A trust file changes only here or by hand; no command believes a key because a package carries it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import (
    DEFAULT_WORKSPACE,
    CaseOption,
    Json,
    LangOption,
    Workspace,
    emit,
    group,
    open_case,
    text_of,
    write_new,
)
from geoevidence.errors import ConfigError, InputError

key_app, trust_app = group("cli.key.help"), group("cli.trust.help")


@key_app.command("show", help=text_of("cli.key.show.help"))
def key_show(
    out: Annotated[Path | None, typer.Option("--out", "-o", help=text_of("cli.key.show.out"))] = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import key_folder, passphrase_of
    from geoevidence.custody import public_key_list

    folder = key_folder()
    found = folder.describe(passphrase=passphrase_of(folder))
    for each in found:
        record = {
            "use": each.use,
            "key_id": each.public_key.key_id,
            "algorithm": each.public_key.algorithm,
            "label": each.label,
            "subject": None if each.certificate is None else each.certificate.subject_text,
            "valid_to": None if each.certificate is None else each.certificate.not_after,
            "encrypted": each.encrypted,
            "path": str(each.path),
        }
        lines = [f"{record['key_id']}  {record['algorithm']}  {text_of('cli.key.use.' + each.use)}"]
        lines += [text_of("cli.key.show.subject", **record)] if each.certificate is not None else []
        lines += [text_of("cli.key.show.protected" if each.encrypted else "cli.key.show.plain", **record)]
        emit(as_json, record, lines)
    if not found:
        emit(as_json, {"folder": str(folder.path)}, [text_of("cli.key.show.none", path=folder.path)])
    elif out is not None:
        write_new(out, public_key_list(found))


@key_app.command("backup", help=text_of("cli.key.backup.help"))
def key_backup(
    file: Annotated[Path, typer.Argument(help=text_of("cli.option.out_file"))], lang: LangOption = "", as_json: Json = False
) -> None:
    from app.tools import key_folder

    folder = key_folder()
    made = folder.backup(file)
    plain = [] if folder.is_encrypted else [text_of("cli.key.backup.plain")]
    emit(as_json, {"path": str(made), "encrypted": not plain}, [text_of("cli.key.backup.done", path=made), *plain])


@key_app.command("restore", help=text_of("cli.key.restore.help"))
def key_restore(
    file: Annotated[Path, typer.Argument(help=text_of("cli.key.restore.file"))], lang: LangOption = "", as_json: Json = False
) -> None:
    from app.tools import key_folder, passphrase_of_file

    signer = key_folder().restore(file, passphrase=passphrase_of_file(file, "app.passphrase"))
    record = {"key_id": signer.public_key.key_id, "algorithm": signer.public_key.algorithm}
    emit(as_json, record, [text_of("cli.key.restore.done", **record)])


@key_app.command("passphrase", help=text_of("cli.key.passphrase.help"))
def key_passphrase(
    remove: Annotated[bool, typer.Option("--remove", help=text_of("cli.key.passphrase.remove"))] = False,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import key_folder, new_passphrase, passphrase_of

    folder = key_folder()
    old = passphrase_of(folder)
    new = None if remove else new_passphrase()
    folder.change_passphrase(old, new)
    emit(
        as_json,
        {"encrypted": new is not None},
        [text_of("cli.key.passphrase.removed" if new is None else "cli.key.passphrase.done")],
    )


@key_app.command("import-sm2", help=text_of("cli.key.import_sm2.help"))
def key_import_sm2(
    key: Annotated[Path, typer.Argument(help=text_of("cli.key.import_sm2.key"))],
    certificates: Annotated[Path, typer.Argument(help=text_of("cli.key.import_sm2.certificates"))],
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import key_folder, passphrase_of, passphrase_of_file

    folder = key_folder()
    phrase = passphrase_of(folder)
    key_phrase = passphrase_of_file(key, "app.passphrase_of_import", variable="GEOEVIDENCE_IMPORT_PASSPHRASE")
    signer = folder.import_sm2(key, certificates, key_passphrase=key_phrase, passphrase=phrase)
    own = next(each for each in folder.describe(passphrase=phrase) if each.public_key == signer.public_key)
    subject = "" if own.certificate is None else own.certificate.subject_text
    record = {"key_id": signer.public_key.key_id, "algorithm": signer.public_key.algorithm, "subject": subject}
    emit(as_json, record, [text_of("cli.key.import_sm2.done", **record)])


@key_app.command("rotate", help=text_of("cli.key.rotate.help"))
def key_rotate(
    case: Annotated[list[str] | None, typer.Option("--case", "-c", help=text_of("cli.key.rotate.case"))] = None,
    every: Annotated[bool, typer.Option("--all", help=text_of("cli.key.rotate.all"))] = False,
    record_only: Annotated[bool, typer.Option("--record-only", help=text_of("cli.key.rotate.record_only"))] = False,
    reason: Annotated[str, typer.Option("--reason", help=text_of("cli.key.reason"))] = "superseded",
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from app.tools import rotate_keys

    if every == bool(case):
        raise ConfigError("cli.key.rotate.which")
    done = rotate_keys(workspace, case or (), new_key=not record_only, reason=reason)
    for case_id, event in done:
        record = {"case": case_id, "event_id": event.event_id}
        emit(as_json, record, [text_of("cli.key.rotate.done", **record)])
    if not done:
        emit(as_json, {}, [text_of("cli.key.rotate.nothing")])


@key_app.command("revoke", help=text_of("cli.key.revoke.help"))
def key_revoke(
    key_id: Annotated[str, typer.Argument(help=text_of("cli.key.revoke.key"))],
    case: CaseOption,
    reason: Annotated[str, typer.Option("--reason", help=text_of("cli.key.reason"))],
    since: Annotated[int | None, typer.Option("--since", min=0, help=text_of("cli.key.revoke.since"))] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    opened = open_case(workspace, case)
    known = [each.public_key.key_id for each in opened.public_keys()]
    named = [each for each in known if key_id and each.startswith(key_id.lower())]
    if len(named) != 1:
        raise InputError("cli.key.which", found=key_id, known=", ".join(known) or "-")
    event = opened.revoke_key(named[0], reason, since)
    how = opened.ended_keys()[named[0]]
    record = {"event_id": event.event_id, "key_id": named[0], "effective": how.effective}
    emit(as_json, record, [text_of("cli.key.revoke.done", **record)])


TrustOption = Annotated[Path | None, typer.Option("--file", "-f", help=text_of("cli.trust.file"))]
RoleOption = Annotated[list[str] | None, typer.Option("--role", help=text_of("cli.trust.role"))]


def _trust_file(path: Path | None) -> Any:
    from app.tools import trust_file_path
    from geoevidence.custody import TrustFile

    return TrustFile(path or trust_file_path())


def _keys_for_trust(case: str | None, package: Path | None, key_file: Path | None, workspace: Path) -> tuple[Any, ...]:
    from geoevidence.custody import read_package_keys, read_public_keys

    if sum(each is not None for each in (case, package, key_file)) != 1:
        raise ConfigError("cli.trust.one_source")
    if case is not None:
        return tuple(each.public_key for each in open_case(workspace, case).public_keys())
    return read_package_keys(package) if package is not None else read_public_keys(key_file or Path())


@trust_app.command("add", help=text_of("cli.trust.add.help"))
def trust_add(
    holder: Annotated[str, typer.Option("--holder", help=text_of("cli.trust.add.holder"))],
    key_id: Annotated[str | None, typer.Argument(help=text_of("cli.trust.add.key"))] = None,
    case: Annotated[str | None, typer.Option("--case", "-c", help=text_of("cli.trust.add.case"))] = None,
    package: Annotated[Path | None, typer.Option("--package", help=text_of("cli.trust.add.package"))] = None,
    key_file: Annotated[Path | None, typer.Option("--key", help=text_of("cli.trust.add.key_file"))] = None,
    authority: Annotated[Path | None, typer.Option("--authority", help=text_of("cli.trust.add.authority"))] = None,
    purpose: Annotated[list[str] | None, typer.Option("--purpose", help=text_of("cli.trust.add.purpose"))] = None,
    witness: Annotated[bool, typer.Option("--witness", help=text_of("cli.trust.add.witness"))] = False,
    role: RoleOption = None,
    valid_from: Annotated[str | None, typer.Option("--valid-from", help=text_of("cli.trust.add.valid_from"))] = None,
    valid_to: Annotated[str | None, typer.Option("--valid-to", help=text_of("cli.trust.add.valid_to"))] = None,
    file: TrustOption = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    from geoevidence.custody import read_certificate

    trusted = _trust_file(file)
    if authority is not None:
        added = trusted.add_authority(read_certificate(authority), holder=holder, purposes=purpose or (), roles=role or ())
        record = {
            "certificate_sha256": added.certificate.sha256,
            "subject": added.certificate.subject_text,
            "holder": added.holder,
        }
        line = text_of("cli.trust.add.authority_done", path=trusted.path, **record)
    else:
        if valid_from is None:
            raise ConfigError("cli.trust.add.since_when")
        known = _keys_for_trust(case, package, key_file, workspace)
        named = [each for each in known if key_id is None or each.key_id.startswith(key_id.lower())]
        if len(named) != 1:
            raise InputError("cli.key.which", found=key_id or "-", known=", ".join(each.key_id for each in known) or "-")
        roles = [*(role or ()), *(("witness",) if witness else ())]
        added = trusted.add_key(named[0], holder=holder, roles=roles, valid_from=valid_from, valid_to=valid_to)
        record = {"key_id": added.key.key_id, "holder": added.holder, "roles": list(added.roles)}
        line = text_of("cli.trust.add.done", path=trusted.path, **{**record, "roles": ", ".join(added.roles)})
    trusted.save()
    emit(as_json, {**record, "path": str(trusted.path)}, [line])


@trust_app.command("list", help=text_of("cli.trust.list.help"))
def trust_list(file: TrustOption = None, lang: LangOption = "", as_json: Json = False) -> None:
    trusted = _trust_file(file)
    policy = trusted.policy
    record = {**json.loads(policy.to_bytes()), "path": str(trusted.path)}
    lines = [
        text_of("cli.trust.list.head", path=trusted.path, required=", ".join(policy.required), witnesses=policy.witness_threshold)
    ]
    for each in policy.keys:
        values = {"holder": each.holder, "roles": ", ".join(each.roles), "since": each.valid_from, "until": each.valid_to or "-"}
        lines.append(f"{each.key.key_id}  {each.key.algorithm}  {text_of('cli.trust.list.key', **values)}")
        if each.revoked_at_tree_size is not None:
            lines.append(text_of("cli.trust.list.revoked", size=each.revoked_at_tree_size))
    for each in policy.authorities:
        values = {"holder": each.holder, "purposes": ", ".join(each.purposes), "roles": ", ".join(each.roles) or "-"}
        lines.append(
            f"{each.certificate.sha256}  {each.certificate.subject_text}  {text_of('cli.trust.list.authority', **values)}"
        )
        for serial, since in sorted(each.revoked.items()):
            lines.append(text_of("cli.trust.list.certificate", serial=f"{serial:x}", since=since))
    emit(as_json, record, lines)


@trust_app.command("remove", help=text_of("cli.trust.remove.help"))
def trust_remove(
    name: Annotated[str, typer.Argument(help=text_of("cli.trust.name"))],
    file: TrustOption = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    trusted = _trust_file(file)
    holder = trusted.remove(name)
    trusted.save()
    emit(
        as_json,
        {"holder": holder, "path": str(trusted.path)},
        [text_of("cli.trust.remove.done", holder=holder, path=trusted.path)],
    )


@trust_app.command("revoke", help=text_of("cli.trust.revoke.help"))
def trust_revoke(
    name: Annotated[str, typer.Argument(help=text_of("cli.trust.name"))],
    since_size: Annotated[int | None, typer.Option("--since-size", min=0, help=text_of("cli.trust.revoke.size"))] = None,
    serial: Annotated[str | None, typer.Option("--serial", help=text_of("cli.trust.revoke.serial"))] = None,
    since: Annotated[str | None, typer.Option("--since", help=text_of("cli.trust.revoke.since"))] = None,
    file: TrustOption = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    trusted = _trust_file(file)
    if since_size is not None and serial is None and since is None:
        holder = trusted.revoke_key(name, since_size).holder
    elif since_size is None and serial is not None and since is not None:
        holder = trusted.revoke_certificate(name, serial, since).holder
    else:
        raise ConfigError("custody.trust_revoke")
    trusted.save()
    emit(
        as_json,
        {"holder": holder, "path": str(trusted.path)},
        [text_of("cli.trust.revoke.done", holder=holder, path=trusted.path)],
    )


@trust_app.command("require", help=text_of("cli.trust.require.help"))
def trust_require(
    verdicts: Annotated[list[str], typer.Argument(help=text_of("cli.trust.require.verdicts"))],
    file: TrustOption = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    trusted = _trust_file(file)
    trusted.require(verdicts)
    trusted.save()
    required = list(trusted.policy.required)
    emit(
        as_json,
        {"required": required, "path": str(trusted.path)},
        [text_of("cli.trust.require.done", required=", ".join(required))],
    )


@trust_app.command("threshold", help=text_of("cli.trust.threshold.help"))
def trust_threshold(
    count: Annotated[int, typer.Argument(min=0, help=text_of("cli.trust.threshold.count"))],
    file: TrustOption = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    trusted = _trust_file(file)
    trusted.set_threshold(count)
    trusted.save()
    emit(as_json, {"witness_threshold": count, "path": str(trusted.path)}, [text_of("cli.trust.threshold.done", count=count)])


@trust_app.command("export", help=text_of("cli.trust.export.help"))
def trust_export(
    out: Annotated[Path, typer.Argument(help=text_of("cli.option.out_file"))],
    file: TrustOption = None,
    lang: LangOption = "",
    as_json: Json = False,
) -> None:
    trusted = _trust_file(file)
    write_new(out, trusted.policy.to_bytes())
    emit(as_json, {"path": str(out)}, [text_of("cli.trust.export.done", path=out)])
