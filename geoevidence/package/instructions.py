"""`VERIFY.txt`: how to check a package, a redacted copy or a supplement, with the programs in it or by hand. Chinese first.

The commands by hand are run by a test; they need bash, coreutils, grep, sed and OpenSSL 3. The file is written before
anybody is asked for a time stamp, so it says how to check one if there is one.
"""

from __future__ import annotations

_BY_HAND = r"""# 1. SHA-256 of every file (the lists write % as %25)
sed 's/%25/%/g' manifest-sha256.txt tagmanifest-sha256.txt | sha256sum --check --quiet

# 2. SM3 of every file
sed 's/%25/%/g' manifest-sm3.txt tagmanifest-sm3.txt |
while read -r digest path; do
  [ "$(openssl dgst -sm3 -r "$path" | cut -c1-64)" = "$digest" ] || echo "SM3: $path"
done

# 3. the manifests, and the other files of seal/, are those that were signed (in a redacted copy: by whoever redacted)
WORK=$(mktemp -d)
subject() { printf '{"digest":{"sha256":"%s","sm3":"%s"},"name":"%s"}' \
  "$(sha256sum "$1" | cut -c1-64)" "$(openssl dgst -sm3 -r "$1" | cut -c1-64)" "$1"; }
for name in seal/*.dsse; do
  sed 's/.*"payload":"\([^"]*\)".*/\1/' $name | base64 -d > "$WORK/$(basename $name .dsse).json"
done
BY=statement; [ -e seal/redaction.dsse ] && BY=redaction
for name in manifest-sha256.txt manifest-sm3.txt tagmanifest-sha256.txt tagmanifest-sm3.txt; do
  grep -qF "$(subject $name)" "$WORK/$BY.json" || echo "$BY: $name"
done
for name in seal/*; do
  case $name in seal/closing.dsse|seal/redaction.dsse) continue;; esac
  [ ! -e seal/closing.dsse ] || grep -qF "$(subject $name)" "$WORK/closing.json" || echo "closing: $name"
done

# 4. every signature of these statements (DSSE; Ed25519 or SM2)
KEYS=data/log/keys.json; [ -e $KEYS ] || KEYS=data/keys.json
for name in statement closing redaction; do
  [ -e seal/$name.dsse ] || continue
  printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < "$WORK/$name.json")" | cat - "$WORK/$name.json" > "$WORK/signed"
  grep -o '"keyid":"[0-9a-f]*","sig":"[^"]*"' seal/$name.dsse | while IFS='"' read -r _ _ _ id _ _ _ sig _; do
    printf %s "$sig" | base64 -d > "$WORK/signature"
    row=$(sed 's/},{/}\n{/g' $KEYS | grep "\"key_id\":\"$id\"")
    case $row in
      *'"algorithm":"ed25519"'*) prefix='\060\052\060\005\006\003\053\145\160\003\041\000' more='' ;;
      *'"algorithm":"sm2-sm3"'*) more='-digest sm3 -pkeyopt distid:1234567812345678'
        prefix='\060\131\060\023\006\007\052\206\110\316\075\002\001\006\010\052\201\034\317\125\001\202\055\003\102\000' ;;
      *) echo "$name: key $id"; continue ;;
    esac
    { printf $prefix; printf %s "$row" | sed 's/.*"public_key":"\([^"]*\)".*/\1/' | base64 -d; } > "$WORK/key.der"
    echo "$name $(openssl pkeyutl -verify -pubin -inkey "$WORK/key.der" -keyform DER -rawin $more \
      -in "$WORK/signed" -sigfile "$WORK/signature" 2>&1)"
  done
done
rm -r "$WORK"
"""

_TIME = """\
# time stamps, if there are any (ROOT.pem: the certificate of the authority, got elsewhere; -token_in for a bare token)
openssl ts -verify -data {data} -in seal/time-1.tsr -CAfile ROOT.pem
"""

_TEXT = """\
核验本{kind_zh} / How to verify this {kind_en}
========================================

案件编号 / case id: {case}
封存软件 / sealed by: {software}
{mark}
一、用核验程序

    python3 verify.pyz .{more}        （只需 Python 3.9 或更高版本，不联网，不安装）

  没有 Python 的，用浏览器打开 verify.html，选取本文件夹或压缩包；它是另外写成的第二个核验程序，也不联网。
  程序给出五项结论：是否完整、由谁签名、时间、是否连续、是否可复算。未核对的项目会写明“未检查”，不算通过。
  随包的核验程序也可能被替换。请优先使用另行取得的 verify.pyz（其 SHA-256 印在报告中，或由发布方提供）：

    python3 /其他位置/verify.pyz 本证据包的位置

  由谁签名、时间戳由谁签发，只能用包外得到的信任文件判断：--trust trust.json。包内的密钥不能证明签名人是谁。
  有签名的纸质封存记录的，用它上面的短码核对：--code 短码。
{about_zh}
二、手工核验（bash、coreutils、grep、sed、OpenSSL 3；在本文件夹内执行；没有其他输出且每个签名显示 Verified 即相符）

  见下方英文部分的命令。第 1、2 步核对每个文件的 SHA-256 和 SM3，第 3 步核对签名声明中的清单和 seal/ 的文件，第 4 步核对签名。
  时间戳（seal/time-1.tsr 等，如有）用所附的 openssl ts 命令核对。

三、它不能证明什么

  校验值和签名说明封存之后没有改变，并说明各记录之间相互衔接；不说明图像所示内容真实，不说明入证之前的情况，也不说明设备时间准确。

----------------------------------------

1. With a verifier

    python3 verify.pyz .{more}        (Python 3.9 or later, no network, nothing to install)

  Without Python, open verify.html in a browser and choose this folder or the archive; it is a second verifier, written
  apart from the first, and needs no network either. The verdicts are five: intact, signed by whom, time, continuous,
  recomputes. What was not checked is said and never counts as passed. The verifiers in here could have been replaced
  with it: prefer a verify.pyz that you got elsewhere (its SHA-256 is printed in the report). Who signed, and whose time
  stamps these are, can be told only with a trust file from outside: --trust trust.json. Where there is a signed paper
  record, give its short code: --code CODE.
{about_en}
2. By hand (bash, coreutils, grep, sed, OpenSSL 3; inside this folder; it agrees when nothing is printed but one
   "Verified" for each signature)

{by_hand}
3. What it does not prove

  Digests and signatures show that nothing changed since sealing and that the records follow from one another. They do
  not show that a picture tells the truth, what happened before the files were recorded, or that a device's clock was right.
"""
_REDACTED = (
    """
  这是删减副本：为保护隐私等原因，部分文件或记录没有包含在内（理由见 seal/redaction.dsse）。其余内容仍可证明属于原证据包；
  缺少的部分无法核对，因此“连续”一项显示“未检查”，并写明缺少的数量。
""",
    """
  This is a redacted copy: files or records were left out, for the reason stated in seal/redaction.dsse. What is here is
  proved to belong to the sealed package; what is missing cannot be checked, so "continuous" is not checked, with the counts.
""",
)
_SUPPLEMENT = (
    """
  这是对某一证据包的补充材料（data/supplement.json），由其作者签名，不改变原证据包。把 PACKAGE 换成该证据包的位置，程序核对两者是否对应。
""",
    """
  This is a supplement to a package (data/supplement.json), signed by its author; the package itself is not touched. Give
  the place of that package for PACKAGE, and the program checks that they belong together.
""",
)


def commands_by_hand() -> str:
    """The commands of part 2 that need nothing from elsewhere, as they stand in the file."""
    return _BY_HAND


def verify_text(*, case: str, software: str, demonstration: bool) -> bytes:
    """The file for one package."""
    return _text(("证据包", "package"), ("", ""), case, software, demonstration)


def redacted_text(*, case: str, software: str, demonstration: bool) -> bytes:
    """The file for one redacted copy."""
    return _text(("证据包的删减副本", "redacted copy of a package"), _REDACTED, case, software, demonstration)


def supplement_text(*, case: str, software: str, demonstration: bool) -> bytes:
    """The file for one supplement."""
    return _text(
        ("补充材料", "supplement"),
        _SUPPLEMENT,
        case,
        software,
        demonstration,
        more=" --package PACKAGE",
        stamped="seal/statement.dsse",
    )


def _text(
    kind: tuple[str, str],
    about: tuple[str, str],
    case: str,
    software: str,
    demonstration: bool,
    *,
    more: str = "",
    stamped: str = "seal/proof.tlog",
) -> bytes:
    mark = "演示数据（合成） / demonstration data (synthetic)\n" if demonstration else ""
    commands = _BY_HAND + "\n" + _TIME.format(data=stamped)
    by_hand = "".join(f"    {line}\n" if line else "\n" for line in commands.split("\n")[:-1]) + "\n"
    return _TEXT.format(
        kind_zh=kind[0], kind_en=kind[1], about_zh=about[0], about_en=about[1], case=case, software=software, mark=mark,
        by_hand=by_hand, more=more,
    ).encode("utf-8")  # fmt: skip
