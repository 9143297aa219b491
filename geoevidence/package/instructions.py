"""`VERIFY.txt`: how to check a package, with the program in it or by hand with common tools. Chinese first.

The commands by hand are run by a test; they need bash, coreutils, sed and OpenSSL 3.
"""

from __future__ import annotations

_BY_HAND = """\
# 1. SHA-256 of every file (the lists write % as %25)
sed 's/%25/%/g' manifest-sha256.txt tagmanifest-sha256.txt | sha256sum --check --quiet

# 2. SM3 of every file
sed 's/%25/%/g' manifest-sm3.txt tagmanifest-sm3.txt |
while read -r digest path; do
  [ "$(openssl dgst -sm3 -r "$path" | cut -c1-64)" = "$digest" ] || echo "SM3: $path"
done

# 3. the manifests are those of the signed statement
WORK=$(mktemp -d)
sed 's/.*"payload":"\\([^"]*\\)".*/\\1/' seal/statement.dsse | base64 -d > "$WORK/statement.json"
for name in manifest-sha256.txt manifest-sm3.txt tagmanifest-sha256.txt tagmanifest-sm3.txt; do
  grep -q "{\\"digest\\":{\\"sha256\\":\\"$(sha256sum "$name" | cut -c1-64)\\",\\"sm3\\":\\"$(openssl dgst -sm3 -r "$name" | cut -c1-64)\\"},\\"name\\":\\"$name\\"}" \\
    "$WORK/statement.json" || echo "statement: $name"
done

# 4. the signature of the statement (Ed25519, DSSE)
KEYID=$(sed 's/.*"keyid":"\\([0-9a-f]*\\)".*/\\1/' seal/statement.dsse)
sed 's/.*"sig":"\\([^"]*\\)".*/\\1/' seal/statement.dsse | base64 -d > "$WORK/signature"
printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < "$WORK/statement.json")" | cat - "$WORK/statement.json" > "$WORK/signed"
{ printf '\\060\\052\\060\\005\\006\\003\\053\\145\\160\\003\\041\\000'
  sed 's/},{/}\\n{/g' data/log/keys.json | grep "\\"key_id\\":\\"$KEYID\\"" | sed 's/.*"public_key":"\\([^"]*\\)".*/\\1/' | base64 -d
} > "$WORK/key.der"
openssl pkeyutl -verify -pubin -inkey "$WORK/key.der" -keyform DER -rawin -in "$WORK/signed" -sigfile "$WORK/signature"
rm -r "$WORK"
"""

_TEXT = """\
核验本数据包 / How to verify this package
========================================

案件编号 / case id: {case}
封存软件 / sealed by: {software}
{mark}
一、用核验程序（只需 Python 3.9 或更高版本，不联网，不安装）

    python3 verify.pyz .

  程序给出五项结论：是否完整、由谁签名、时间、是否连续、是否可复算。未核对的项目会写明“未核对”，不算通过。
  随包的 verify.pyz 也可能被替换。请优先使用另行取得的 verify.pyz（其 SHA-256 印在报告中，或由发布方提供）：

    python3 /其他位置/verify.pyz 本数据包的位置

  由谁签名，只能用包外得到的信任文件判断：--trust trust.json。包内的密钥不能证明签名人是谁。

二、手工核验（bash、coreutils、sed、OpenSSL 3；在本文件夹内执行；没有输出或显示 Verified 即相符）

  见下方英文部分的命令。第 1、2 步核对每个文件的 SHA-256 和 SM3，第 3 步核对签名声明中的清单，第 4 步核对签名。

三、它不能证明什么

  校验值和签名说明封存之后没有改变，并说明各记录之间相互衔接；不说明图像所示内容真实，也不说明设备时间准确。

----------------------------------------

1. With the verifier (Python 3.9 or later, no network, nothing to install)

    python3 verify.pyz .

  It gives five verdicts: intact, signed by whom, time, continuous, recomputes. What was not checked is said and never
  counts as passed. The verify.pyz in the package could have been replaced with it: prefer one that you got elsewhere
  (its SHA-256 is printed in the report). Who signed can be told only with a trust file from outside: --trust trust.json.

2. By hand (bash, coreutils, sed, OpenSSL 3; inside this folder; silence or "Verified" means that it agrees)

{by_hand}
3. What it does not prove

  Digests and signatures show that nothing changed since sealing and that the records follow from one another. They do
  not show that a picture tells the truth, or that a device's clock was right.
"""


def commands_by_hand() -> str:
    """The commands of part 2, as they stand in the file."""
    return _BY_HAND


def verify_text(*, case: str, software: str, demonstration: bool) -> bytes:
    """The file for one package."""
    mark = "演示数据（合成） / demonstration data (synthetic)\n" if demonstration else ""
    by_hand = "".join(f"    {line}\n" if line else "\n" for line in _BY_HAND.split("\n")[:-1]) + "\n"
    return _TEXT.format(case=case, software=software, mark=mark, by_hand=by_hand).encode("utf-8")
