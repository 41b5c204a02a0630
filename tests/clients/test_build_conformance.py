"""Each instruction and form of the Dockerfile reference, through the docker CLI and docker-py.

BOXWRIGHT_PEER holds the rows that the classic builder of dockerd 20.10 knows against it; the others are of later syntax.
"""

import io
import os
import tarfile
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import zstandard
from support import builds
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]

PEER = "BOXWRIGHT_PEER" in os.environ


def packed(compression: str, **files: str) -> bytes:
    out = io.BytesIO()
    if compression == "zst":
        return zstandard.compress(packed("", **files))
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(f"in/{name}")
            info.size, info.mode, info.uid = len(content), 0o640, 7
            tar.addfile(info, io.BytesIO(content.encode()))
    return out.getvalue()


FILES: dict[str, Any] = {
    "a.txt": "A", "b.txt": "B", "c.md": "C", "d/": "", "d/one": "1", "d/sub/": "", "d/sub/two": "2", "d/x.txt": "X",
    "link": "-> a.txt", ".hidden": "H", "links/": "", "links/l": "-> ../a.txt", "with space": "S", "odd[1].txt": "O", "plain.tar": packed("", f="tar"), "t.tar.gz": packed("gz", f="gz"),
    "t.tar.zst": packed("zst", f="zst"), "t.tar.bz2": packed("bz2", f="bz2"), "t.tar.xz": packed("xz", f="xz"), "not.tar.gz": "no archive",
    "passwd": "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n", "group": "root:x:0:\nweb:x:44:\nstaff:x:50:\n",
}  # fmt: skip


class Row(NamedTuple):
    """A Dockerfile below `FROM busybox` (unless it has its own), and what is true of its image.

    run: a shell command in it and what that prints.  has: a path of inspect's Config and its value.
    """

    text: str
    run: tuple[str, str] | None = None
    has: dict[str, Any] | None = None
    later: bool = False  # than dockerd 20.10


ROWS: dict[str, Row] = {
    # -- the file's form
    "comment": Row("# c\nRUN echo 1 > /x # no comment\n  # indented\nRUN echo 2 >> /x", ("cat /x", "1\n2")),
    "continuation": Row("RUN echo a \\\n   b \\\n# between\n\n   c > /x", ("cat /x", "a b c")),
    "escape directive": Row("# escape=`\nFROM busybox\nRUN echo a `\n  b > /x\nENV P=c:\\d", ("cat /x; echo $P", "a b\nc:\\d")),
    "syntax directive": Row("# syntax=docker/dockerfile:1\nFROM busybox\nENV A=1", ("echo $A", "1")),
    "keywords in any case": Row("from busybox\nrun echo 1 > /x\neNv A=2", ("cat /x; echo $A", "1\n2")),
    "carriage returns": Row("FROM busybox\r\nENV A=1\r\nRUN echo $A > /x\r\n", ("cat /x", "1")),
    "byte order mark": Row("\ufeffFROM busybox\nENV A=1", ("echo $A", "1")),
    # -- FROM, ARG
    "from with a tag": Row("FROM busybox:latest\nENV A=1", ("echo $A", "1")),
    "from an argument": Row("ARG B=busybox\nARG T=${B}:latest\nFROM $T\nENV A=1", ("echo $A", "1")),
    "from a stage": Row("FROM busybox AS one\nENV A=1\nRUN echo x > /x\nFROM one\nENV B=2", ("cat /x; echo $A$B", "x\n12")),
    "from scratch": Row("FROM busybox AS b\nFROM scratch\nCOPY --from=b / /\nENV A=1", ("echo $A", "1")),
    "from with a platform": Row("FROM --platform=linux/amd64 busybox\nENV A=1", ("echo $A", "1")),
    "argument": Row("ARG A=1\nRUN echo $A > /x", ("cat /x; echo ${A-unset}", "1\nunset")),
    "arguments": Row("ARG A=1 B=$A\nRUN echo $A $B > /x", ("cat /x", "1 1"), later=True),
    "global argument": Row("ARG A=1\nFROM busybox\nRUN echo \"<$A>\" > /x\nARG A\nRUN echo $A >> /x", ("cat /x", "<>\n1")),
    "argument ends with its stage": Row("FROM busybox AS a\nARG A=1\nFROM busybox\nRUN echo \"<$A>\" > /x", ("cat /x", "<>")),
    "variable before argument": Row("ARG A=1\nENV A=2\nRUN echo $A > /x", ("cat /x", "2")),
    "platform arguments": Row("ARG TARGETOS\nRUN echo $TARGETOS > /x", ("cat /x", "linux"), later=True),
    # -- ENV
    "env": Row("ENV A=1 B=\"x y\" C='$A' D=a\\ b", ("echo \"$A/$B/$C/$D\"", "1/x y/$A/a b")),
    "env, old form": Row("ENV A x  y \"z\"", ("echo \"$A\"", "x  y z")),
    "env does not see itself": Row("ENV A=1\nENV A=2 B=$A", ("echo $A$B", "21")),
    "env, defaults": Row("ENV A=1 E=\nENV B=${A:-d} C=${N:-d$A} D=${E:-e} F=${A:+s} G=${N:+s}x",
                         ("echo $B/$C/$D/$F/$G", "1/d1/e/s/x")),
    "env, defaults without a colon": Row("ENV E=\nENV B=${E-x} C=${N-x} D=${E+x}", ("echo \"$B/$C/$D\"", "/x/x"), later=True),
    "env, cut": Row("ENV P=/a/b.tar.gz\nENV A=${P#*/} B=${P##*/} C=${P%.*} D=${P%%.*}", ("echo $A $B $C $D", "a/b.tar.gz b.tar.gz /a/b.tar /a/b"),
                    later=True),
    "env, replaced": Row("ENV P=foofoo\nENV A=${P/o/0} B=${P//o/0} C=${P/f*o/x}", ("echo $A $B $C", "f0ofoo f00f00 x"), later=True),
    "env, escapes": Row("ENV A=1\nENV B=\\$A C=\"\\$A\" D='\\$A' E=$A\\$A", ("echo $B $C $D $E", "$A $A \\$A 1$A")),
    # -- RUN
    "run, shell form": Row("RUN echo \"$HOME\" && echo 2 > /x", ("cat /x", "2")),
    "run, exec form": Row('RUN ["/bin/sh", "-c", "echo exec > /x"]', ("cat /x", "exec")),
    "run in the working directory": Row("WORKDIR /w\nRUN pwd > x", ("cat /w/x", "/w")),
    "run as a user": Row("RUN mkdir -m 777 /u\nUSER 12:34\nRUN id -u > /u/x; id -g >> /u/x", ("cat /u/x", "12\n34")),
    "run deletes": Row("RUN echo 1 > /x\nRUN rm /x; rm -r /home", ("ls -d /x /home 2>&1 | wc -l", "2")),
    "run without a network": Row("RUN --network=none ls /sys/class/net > /x", ("cat /x", "lo"), later=True),
    "run, sandboxed": Row("RUN --security=sandbox echo 1 > /x", ("cat /x", "1"), later=True),
    "run, document": Row("RUN <<EOF\necho 1 > /x\necho 2 >> /x\nEOF", ("cat /x", "1\n2"), later=True),
    "run, document to a command": Row("RUN cat <<A > /x && cat <<B >> /x\none $HOME\nA\ntwo\nB", ("cat /x", "one /root\ntwo"), later=True),
    "run, document without tabs": Row("RUN <<-EOF\n\techo 1 > /x\n\tEOF", ("cat /x", "1"), later=True),
    "run, script": Row("RUN <<EOF\n#!/bin/busybox ash\necho $0 > /x\nEOF", ("cat /x", "/dev/pipes/EOF"), later=True),
    "run, cache": Row("RUN --mount=type=cache,target=/c echo 1 >> /c/f; wc -l < /c/f > /n; true\n"
                      "RUN --mount=type=cache,target=/c echo 2 >> /c/f; cp /c/f /x",
                      ("tail -n 2 /x; ls /c", "1\n2"), later=True),
    "run, bind": Row("RUN --mount=type=bind,source=d,target=/m cat /m/one /m/sub/two > /x; touch /m/n 2>&1 | grep -c Read >> /x",
                     ("cat /x; ls /m", "121"), later=True),
    "run, bind of a file": Row("RUN --mount=target=/m/a,source=a.txt cat /m/a > /x", ("cat /x", "A"), later=True),
    "run, bind from a stage": Row("FROM busybox AS s\nRUN echo s > /f\nFROM busybox\nRUN --mount=from=s,target=/m,rw cat /m/f > /x; touch /m/y",
                                  ("cat /x", "s"), later=True),
    "run, tmpfs": Row("RUN --mount=type=tmpfs,target=/t,size=64k df -k /t | tail -n 1 > /x; echo 1 > /t/f",
                      ("grep -c 64 /x; ls /t", "1"), later=True),
    "run, secret that nobody needs": Row("RUN --mount=type=secret,id=s test ! -e /run/secrets/s", later=True),
    # -- COPY, ADD
    "copy a file": Row("COPY a.txt /x", ("cat /x; stat -c '%u %g %a' /x", "A0 0 644")),
    "copy into a directory": Row("COPY a.txt b.txt /deep/er/", ("cat /deep/er/a.txt /deep/er/b.txt; stat -c %a /deep", "AB755")),
    "copy below the working directory": Row("WORKDIR /w\nCOPY a.txt .\nCOPY a.txt x", ("cat a.txt x", "AA")),
    "copy, exec form": Row('COPY ["with space", "/x y"]', ("cat '/x y'", "S")),
    "copy a directory's content": Row("COPY d /x", ("find /x -type f | sort; cat /x/sub/two", "/x/one\n/x/sub/two\n/x/x.txt\n2")),
    "copy into what is there": Row("RUN mkdir /x && echo old > /x/one && echo o > /x/old\nCOPY d/ /x/", ("cat /x/one /x/old", "1o")),
    "copy with wildcards": Row("COPY *.txt /x/\nCOPY d/?ne /y", ("ls /x; cat /y", "a.txt\nb.txt\nodd[1].txt\n1")),
    "copy a class": Row("COPY [ab].txt /x/", ("ls /x", "a.txt\nb.txt")),
    "copy an escaped name": Row("COPY odd[[]1].txt /x", ("cat /x", "O")),
    "copy follows a link": Row("COPY link /x", ("test -h /x || cat /x", "A")),
    "copy through a link of the image": Row("RUN mkdir /real && ln -s /real /l\nCOPY a.txt /l/", ("cat /real/a.txt; test -h /l && echo l", "Al")),
    "copy everything": Row("COPY . /x", ("cat /x/d/sub/two; test -h /x/link && echo l", "2l")),
    "copy with variables": Row("ENV F=a.txt D=/x\nCOPY $F ${D}/y", ("cat /x/y", "A")),
    "copy from a stage": Row("FROM busybox AS s\nRUN echo s > /f; chown 3:4 /f; chmod 600 /f\nFROM busybox\nCOPY --from=s /f /x",
                             ("cat /x; stat -c '%u %g %a' /x", "s\n3 4 600")),
    "copy from a stage's number": Row("FROM busybox\nRUN echo s > /f\nFROM busybox\nCOPY --from=0 /f /x", ("cat /x", "s")),
    "copy from an image": Row("FROM busybox\nCOPY --from=busybox:latest /bin /bb", ("/bb/busybox echo 1", "1")),
    "copy with an owner": Row("COPY passwd group /etc/\nCOPY --chown=web a.txt /a\nCOPY --chown=web:staff a.txt /b\nCOPY --chown=5 d /n/d",
                              ("stat -c '%u %g' /a /b /n /n/d /n/d/sub/two", "33 44\n33 50\n0 0\n5 5\n5 5")),
    "copy with a mode": Row("COPY --chmod=701 a.txt /x\nCOPY --chmod=0640 d /y", ("stat -c %a /x /y/sub/two", "701\n640"), later=True),
    "copy, linked": Row("COPY --link a.txt /x/y", ("cat /x/y", "A"), later=True),
    "copy, parents": Row("COPY --parents d/sub/two d/./x.txt /p/", ("find /p -type f | sort", "/p/d/sub/two\n/p/x.txt"), later=True),
    "copy, exclude": Row("COPY --exclude=*.txt --exclude=sub d /x", ("find /x -type f", "/x/one"), later=True),
    "copy, documents": Row("ENV A=1\nCOPY <<F <<\"G\" /x/\n$A\nF\n$A\nG", ("cat /x/F /x/G", "1\n$A"), later=True),
    "copy, document": Row("COPY <<F /x/y\nhello\nF", ("cat /x/y; stat -c %a /x/y", "hello\n644"), later=True),
    "add a file": Row("ADD a.txt /x/", ("cat /x/a.txt", "A")),
    "add archives": Row("ADD plain.tar /x/\nADD t.tar.gz /y\nADD t.tar.bz2 t.tar.xz /z/",
                        ("cat /x/in/f /y/in/f /z/in/f; stat -c '%u %a' /x/in/f", "targzxz7 640")),
    "add what only looks like one": Row("ADD not.tar.gz /x", ("cat /x", "no archive")),
    "add, kept packed": Row("ADD --unpack=false plain.tar /x", ("test -f /x && echo f", "f"), later=True),
    # -- the configuration
    "label": Row("LABEL a=1 \"b c\"=\"x y\" d='e'\nLABEL a=2", None, {"Labels": {"a": "2", "b c": "x y", "d": "e"}}),
    "cmd, exec form": Row('CMD ["echo", "1"]', None, {"Cmd": ["echo", "1"]}),
    "cmd, shell form": Row("CMD echo 1", None, {"Cmd": ["/bin/sh", "-c", "echo 1"]}),
    "entrypoint": Row('CMD ["a"]\nENTRYPOINT ["e", "f"]', None, {"Entrypoint": ["e", "f"], "Cmd": ["a"]}),
    "entrypoint takes an inherited command away": Row('ENTRYPOINT ["e"]', None, {"Entrypoint": ["e"], "Cmd": None}),
    "entrypoint, shell form": Row("ENTRYPOINT exec top", None, {"Entrypoint": ["/bin/sh", "-c", "exec top"]}),
    "shell": Row('SHELL ["/bin/busybox", "ash", "-c"]\nRUN echo $0 > /x\nCMD x', ("cat /x", "ash"),
                 {"Cmd": ["/bin/busybox", "ash", "-c", "x"], "Shell": ["/bin/busybox", "ash", "-c"]}),
    "workdir": Row("WORKDIR /a\nWORKDIR b\nENV C=c\nWORKDIR $C/../d", ("pwd; ls -d /a/b/d", "/a/b/d\n/a/b/d"), {"WorkingDir": "/a/b/d"}),
    "user": Row("ARG U=12\nUSER $U:5", ("id -u", "12"), {"User": "12:5"}),
    "expose": Row("ENV P=81\nEXPOSE 80 $P/udp 90-91", None,
                  {"ExposedPorts": {"80/tcp": {}, "81/udp": {}, "90/tcp": {}, "91/tcp": {}}}),
    "volume": Row('VOLUME /v /w\nVOLUME ["/x y"]', None, {"Volumes": {"/v": {}, "/w": {}, "/x y": {}}}),
    "stopsignal": Row("STOPSIGNAL SIGUSR1", None, {"StopSignal": "SIGUSR1"}),
    "healthcheck": Row('HEALTHCHECK --interval=5s --timeout=1m --start-period=1.5s --retries=3 CMD ["a", "b"]', None,
                       {"Healthcheck": {"Test": ["CMD", "a", "b"], "Interval": 5 * 10**9, "Timeout": 60 * 10**9,
                                        "StartPeriod": 1_500_000_000, "Retries": 3}}),
    "healthcheck, shell form": Row("HEALTHCHECK CMD a b", None, {"Healthcheck": {"Test": ["CMD-SHELL", "a b"]}}),
    "healthcheck none": Row("HEALTHCHECK NONE", None, {"Healthcheck": {"Test": ["NONE"]}}),
    "onbuild": Row("ONBUILD RUN echo 1 > /x\nONBUILD ENV A=1", None, {"OnBuild": ["RUN echo 1 > /x", "ENV A=1"]}),
    "maintainer": Row("MAINTAINER me <me@x>\nENV A=1", ("echo $A", "1")),
    # -- forms beside those above
    "check directive": Row("# check=skip=all\nFROM busybox\nENV A=1", ("echo $A", "1")),
    "directives end at the first comment": Row("# a comment\n# escape=`\nFROM busybox\nRUN echo a \\\n b > /x", ("cat /x", "a b")),
    "tabs and blank lines": Row("FROM busybox\n\n\t ENV\tA=1\n\n\nENV B=2\n\n", ("echo $A$B", "12")),
    "from, alias in any case": Row("FROM busybox As One\nRUN echo 1 > /x\nFROM busybox\nCOPY --from=one /x /x", ("cat /x", "1")),
    "from with the platform of the build": Row("FROM --platform=$BUILDPLATFORM busybox\nENV A=1", ("echo $A", "1"), later=True),
    "argument with a default that is quoted": Row("ARG A=\"x y\"\nRUN echo \"$A\" > /x", ("cat /x", "x y")),
    "argument declared again": Row("ARG A=1\nARG A=2\nRUN echo $A > /x", ("cat /x", "2")),
    "argument without a value": Row("ARG A\nRUN echo \"<${A-unset}>\" > /x", ("cat /x", "<unset>")),
    "argument in every instruction": Row(
        "ARG D=/w U=5 P=81 F=a.txt S=SIGUSR2 L=l V=/vol\nWORKDIR $D\nCOPY --chown=$U $F ./$F\nADD ${F} /added\nLABEL $L=$P\n"
        "EXPOSE $P\nVOLUME $V\nSTOPSIGNAL $S\nUSER $U", ("pwd; id -u; stat -c %u /w/a.txt; cat /added", "/w\n5\n5\nA"),
        {"Labels": {"l": "81"}, "ExposedPorts": {"81/tcp": {}}, "Volumes": {"/vol": {}}, "StopSignal": "SIGUSR2"}, later=True),
    "env, required": Row('ENV A=1\nENV B="${A:?no}" C="${A?no}"', ("echo $B$C", "11"), later=True),
    "env, nested": Row("ENV A=1\nENV B=${N:-${M:-$A}}", ("echo $B", "1")),
    "env, shortest and longest": Row("ENV P=aXbXc\nENV A=${P#*X} B=${P##*X} C=${P%X*} D=${P%%X*}", ("echo $A $B $C $D", "bXc c aXb a"), later=True),
    "env, over lines": Row("ENV A=1 \\\n    B=2 \\\n    C=3", ("echo $A$B$C", "123")),
    "env of the base": Row("FROM busybox AS one\nENV A=1\nFROM one\nENV A=${A}2", ("echo $A", "12")),
    "run on the host's network": Row("RUN --network=host ls /sys/class/net | grep -c '^lo$' > /x", ("cat /x", "1"), later=True),
    "run, document that is not expanded": Row("ENV A=1\nRUN cat <<'E' > /x\n$A\nE", ("cat /x", "$A"), later=True),
    "run, document expanded by the shell": Row("RUN A=2; cat <<E > /x\n$A\nE", ("cat /x", "2"), later=True),
    "run, cache of a user": Row("RUN --mount=type=cache,target=/c,uid=5,gid=6,mode=0700,id=u stat -c '%u %g %a' /c > /x", ("cat /x", "5 6 700"), later=True),
    "run, locked cache": Row("RUN --mount=type=cache,target=/c,sharing=locked,id=k true > /c/f; ls /c > /x", ("cat /x", "f"), later=True),
    "run, key that nobody needs": Row("RUN --mount=type=ssh true", later=True),
    "run, several mounts": Row("RUN --mount=type=tmpfs,target=/t --mount=target=/m,source=a.txt cat /m > /x; touch /t/1", ("cat /x; ls /t", "A"), later=True),
    "run in a volume is lost": Row("RUN mkdir /v && echo 1 > /v/f\nVOLUME /v\nRUN echo 2 > /v/f; echo 3 > /v/g", ("cat /v/f; ls /v", "1\nf")),
    "copy to the working directory": Row("WORKDIR /w\nCOPY a.txt b.txt ./", ("ls /w", "a.txt\nb.txt")),
    "copy, hidden files": Row("COPY . /x", ("test -f /x/.hidden && echo h", "h")),
    "copy a link in a directory": Row("COPY links /x", ("readlink /x/l", "../a.txt")),
    "copy wildcards of a stage": Row("FROM busybox AS s\nRUN mkdir /o && touch /o/a.x /o/b.x /o/c.y\nFROM busybox\nCOPY --from=s /o/*.x /x/", ("ls /x", "a.x\nb.x")),
    "copy, linked, with an owner and a mode": Row("COPY --link --chown=3:4 --chmod=600 a.txt /x/y", ("stat -c '%u %g %a' /x/y", "3 4 600"), later=True),
    "copy, parents of wildcards": Row("COPY --parents d/*.txt /p/", ("find /p -type f", "/p/d/x.txt"), later=True),
    "copy, exclude below": Row("COPY --exclude=**/two d /x", ("find /x -type f | sort", "/x/one\n/x/x.txt"), later=True),
    "copy, document without tabs": Row("COPY <<-E /x\n\ta\n\tE", ("cat /x", "a"), later=True),
    "copy, document with an owner": Row("COPY --chown=7 --chmod=0400 <<E /x\na\nE", ("stat -c '%u %a' /x", "7 400"), later=True),
    "add, exec form": Row('ADD ["with space", "/x y"]', ("cat '/x y'", "S")),
    "add a directory": Row("ADD d /x", ("cat /x/sub/two", "2")),
    "add, document": Row("ADD <<E /x\na\nE", ("cat /x", "a"), later=True),
    "add an archive with an owner": Row("ADD --chown=9:8 plain.tar /x", ("stat -c '%u %g' /x/in/f", "9 8")),
    "add an archive over a directory": Row("RUN mkdir -p /x/in && echo old > /x/in/o\nADD plain.tar /x", ("cat /x/in/o /x/in/f", "old\ntar")),
    "add, exclude": Row("ADD --exclude=*.txt d /x", ("find /x -type f | sort", "/x/one\n/x/sub/two"), later=True),
    "label, over lines": Row("LABEL a=1 \\\n  b=\"two\\\nlines\"", None, {"Labels": {"a": "1", "b": "twolines"}}),
    "cmd that is no JSON": Row("CMD ['a', \"b\"]", None, {"Cmd": ["/bin/sh", "-c", "['a', \"b\"]"]}),
    "cmd, the last one": Row('CMD ["a"]\nCMD ["b"]', None, {"Cmd": ["b"]}),
    "entrypoint and an own command": Row('ENTRYPOINT ["e"]\nCMD ["a"]', None, {"Entrypoint": ["e"], "Cmd": ["a"]}),
    "shell, for other forms": Row('SHELL ["/bin/busybox", "ash", "-c"]\nENTRYPOINT e\nHEALTHCHECK CMD h', None,
                                  {"Entrypoint": ["/bin/busybox", "ash", "-c", "e"], "Healthcheck": {"Test": ["CMD-SHELL", "h"]}}),
    "workdir is root's": Row("USER 5\nWORKDIR /a/b/", ("stat -c %u /a/b; pwd", "0\n/a/b")),
    "user by name": Row("COPY passwd group /etc/\nRUN mkdir -m 777 /u\nUSER web\nRUN id -un > /u/x", ("id -u; cat /u/x", "33\nweb"), {"User": "web"}),
    "expose, protocols": Row("EXPOSE 80/tcp 80/udp 90-91/udp", None,
                             {"ExposedPorts": {"80/tcp": {}, "80/udp": {}, "90/udp": {}, "91/udp": {}}}),
    "stopsignal, a number": Row("STOPSIGNAL 9", None, {"StopSignal": "9"}),
    "healthcheck, the last one": Row("HEALTHCHECK CMD a\nHEALTHCHECK --start-interval=2s CMD b", None,
                                     {"Healthcheck": {"Test": ["CMD-SHELL", "b"], "StartInterval": 2 * 10**9}}, later=True),
    "blanks in a continued line": Row('RUN printf %s "\\\n     hello\\\n     world" > /x', ("tr ' ' _ < /x", "_____hello_____world")),
    "env, old form of what looks like the new one": Row("ENV ONE TWO= THREE=world", ("echo \"$ONE\"", "TWO= THREE=world")),
    "env, escaped patterns": Row("ENV P=a*b*c\nENV A=${P#a\\*} B=${P//\\*/-}", ("echo \"$A $B\"", "b*c a-b-c"), later=True),
    "env, words of other variables": Row("ENV P=x.tar.gz S=.gz D=\nENV A=${P%$S} B=${D:-${P%%.*}}", ("echo $A $B", "x.tar x"), later=True),
    "run, document to a shell": Row("RUN <<E ash\nset -e\necho 1 > /x\nE", ("cat /x", "1"), later=True),
    "run, document in another shell": Row('SHELL ["/bin/busybox", "ash", "-ec"]\nRUN <<E\necho $0 > /x\nE', ("cat /x", "ash"), later=True),
    "run, cache that begins with files": Row(
        "FROM busybox AS s\nRUN mkdir -p /o/sub && echo 1 > /o/sub/f && chown 5 /o/sub/f\nFROM busybox\n"
        "RUN --mount=type=cache,id=begun,from=s,source=/o,target=/c cat /c/sub/f > /x; stat -c %u /c/sub/f >> /x; echo 2 > /c/g\n"
        "RUN --mount=type=cache,id=begun,from=s,source=o,target=/c cat /c/g >> /x", ("cat /x; ls /c", "1\n5\n2"), later=True),
    "run, cache that begins with an image": Row(
        "RUN --mount=type=cache,from=busybox:latest,target=/c,mode=0711 ls /c/bin/busybox > /x; stat -c %a /c >> /x", ("cat /x", "/c/bin/busybox\n711"), later=True),
    "run, mount of a name with a comma": Row('RUN mkdir "/a,b"\nRUN --mount=type=tmpfs,\\"target=/a,b\\" touch /a,b/f; grep -c " /a,b tmpfs" /proc/mounts > /n',
                                             ("cat /n; ls /a,b", "1"), later=True),
    "copy with a symbolic mode": Row("COPY --chmod=u=rwX,go=rX d /x\nCOPY --chmod=+x a.txt /y\nARG M=g=u,o=\nCOPY --chmod=$M a.txt /z",
                                     ("stat -c %a /x /x/one /x/sub /y /z", "755\n644\n755\n755\n660"), later=True),
    "copy, document with a symbolic mode": Row("COPY --chmod=a+x,u+s <<E /x\n1\nE", ("stat -c %a /x", "4755"), later=True),
    "add an archive with a symbolic mode": Row("ADD --chmod=go-rwx plain.tar /x", ("stat -c %a /x/in/f", "600"), later=True),
    "copy, parents behind a pivot": Row("COPY --parents ./d/./sub/* d/./*.txt /p/", ("find /p -type f | sort", "/p/sub/two\n/p/x.txt"), later=True),
    "copy, parents at any depth": Row("COPY --parents ./d/**/two ./d/./**/*.txt l**/* /p/", ("find /p ! -type d | sort", "/p/d/sub/two\n/p/links/l\n/p/x.txt"),
                                      later=True),
    "copy, parents of a stage": Row("FROM busybox AS s\nRUN mkdir -p /a/b/c && touch /a/b/c/f\nFROM busybox\nCOPY --parents --from=s /a/./b/c/* /p/",
                                    ("find /p -type f", "/p/b/c/f"), later=True),
    "copy, exclude of wildcards": Row("COPY --exclude=b* --exclude=odd* *.txt /x/", ("ls /x", "a.txt"), later=True),
    "add a zstd archive": Row("ADD t.tar.zst /x", ("cat /x/in/f", "zst"), later=True),
    "label, quotes": Row("ENV A=1\nLABEL a=\"x \\\"y\\\" $A\" b='$A' c=x\\ y \"d.e\"=f", None, {"Labels": {"a": 'x "y" 1', "b": "$A", "c": "x y", "d.e": "f"}}),
    "expose, a range of variables": Row("ENV A=80 B=82\nEXPOSE $A-$B/udp", None, {"ExposedPorts": {f"{n}/udp": {} for n in (80, 81, 82)}}),
    "volume, a list with variables": Row('ENV A=a\nVOLUME ["/$A", "/b/${A}"]', None, {"Volumes": {"/a": {}, "/b/a": {}}}),
    "workdir with what is not set": Row("ENV D=/path\nWORKDIR $D/$NAME", ("pwd", "/path")),
    "user, a name and a group's": Row("COPY passwd group /etc/\nUSER web:staff", ("id -u; id -g", "33\n50"), {"User": "web:staff"}),
    "stopsignal without SIG": Row("STOPSIGNAL KILL", None, {"StopSignal": "KILL"}),
    "healthcheck, tabs and no retries": Row("HEALTHCHECK --retries=0\tCMD\ta", None, {"Healthcheck": {"Test": ["CMD-SHELL", "a"]}}),
    "onbuild of any form": Row('ONBUILD COPY --chown=5 ["a b", "/x"]\nONBUILD RUN <<E\necho\nE', None,
                               {"OnBuild": ['COPY --chown=5 ["a b", "/x"]', "RUN <<E\necho\nE"]}, later=True),
}  # fmt: skip

Builder = Callable[[Engine, bytes], builds.Built]


@pytest.fixture(params=["docker", "docker-py"])
def build(request: pytest.FixtureRequest) -> Builder:
    return builds.by_cli if request.param == "docker" else builds.by_docker_py


def dockerfile(text: str) -> str:
    starts = text.removeprefix("\ufeff").lstrip("# ").lower()
    whole = starts.startswith(("from", "syntax", "escape")) or "\nFROM" in text
    return text if whole else f"FROM busybox\n{text}\n"


@pytest.mark.parametrize("name", ROWS)
def test_instruction(engine: Engine, build: Builder, name: str) -> None:
    row = ROWS[name]
    if PEER and row.later:
        pytest.skip("later than dockerd 20.10")
    built = build(engine, builds.archive(FILES, dockerfile(row.text)))
    assert built.image, f"{built.error}\n{built.said}"
    if row.run is not None:
        ran = engine.ok("run", "--rm", "--entrypoint", "/bin/sh", built.image, "-c", row.run[0])
        assert ran == row.run[1], built.said
    found = builds.config(engine, built.image)["Config"]
    for key, value in (row.has or {}).items():
        assert found.get(key) == value, (key, found)


# A Dockerfile below FROM busybox, and what the error says.
REFUSED: dict[str, tuple[str, str]] = {
    "unknown instruction": ("RUNN x", "dockerfile parse error on line 2: unknown instruction: RUNN"),
    "unknown flag": ("COPY --form=x a b", "dockerfile parse error on line 2: unknown flag: --form"),
    "flag twice": ("COPY --from=a --from=b a b", "dockerfile parse error on line 2: duplicate flag specified: from"),
    "copy without a destination": ("COPY a.txt", "dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined"),
    "copy of nothing": ("COPY nope /x", "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist"),
    "copy without a match": ("COPY nope* /x", "COPY failed: no source files were specified"),
    "copy out of the context": ("COPY ../x /x", "COPY failed: forbidden path outside the build context: ../x ()"),
    "copy of several to a file": ("COPY a.txt b.txt /x", "When using COPY with more than one source file, the destination must be a directory and end with a /"),
    "copy of a directory over a file": ("RUN touch /x\nCOPY d /x", "cannot copy to non-directory: /x"),
    "copy from nowhere": ("COPY --from=localhost:1/no/such /a /b", "invalid from flag value localhost:1/no/such: "),
    "chown to nobody": ("COPY --chown=nobody-there a.txt /x", "unable to convert uid/gid chown string to host mapping: "),
    "chmod of letters": ("COPY --chmod=u+q a.txt /x", "invalid chmod parameter: 'u+q'. it should be octal string and between 0 and 07777"),
    "chmod of too much": ("COPY --chmod=17777 a.txt /x", "invalid chmod parameter: '17777'. it should be octal string and between 0 and 07777"),
    "device": ("RUN --device=vendor.com/class=x true", "unknown flag: --device"),
    "a cache's source": ("RUN --mount=type=cache,target=/c,source=/x true", "the source of a cache mount is a path in its from, which is missing"),
    "a cache of a file": ("RUN --mount=type=cache,target=/c,from=busybox,source=/bin/busybox true", "the source of a cache mount is no directory"),
    "parents of nothing": ("COPY --parents **/nope* /x/", "COPY failed: no source files were specified"),
    "env without a value": ("ENV A", "dockerfile parse error on line 2: ENV must have two arguments"),
    "env without =": ("ENV A=1 B", "dockerfile parse error on line 2: Syntax error - can't find = in \"B\". Must be of the form: name=value"),
    "substitution": ("ENV A=${B", "missing '}'"),
    "modifier": ("ENV A=${B:^x}", "unsupported modifier (:^) in substitution"),
    "quote": ("ENV A=\"x", 'dockerfile parse error on line 2: failed to process "\\"x": unexpected end of statement while looking for matching double-quote'),
    "required variable": ('ENV A="${B:?give one}"', "B: give one"),
    "no FROM": ("FROM", "dockerfile parse error on line 2: FROM requires either one or three arguments"),
    "stage name": ("FROM busybox AS 1x", "dockerfile parse error on line 2: invalid name for build stage: \"1x\", name can't start with a number or contain symbols"),
    "no such image": ("FROM localhost:1/no/such", "localhost:1"),
    "chained onbuild": ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
    "onbuild from": ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    "onbuild of what is wrong": ("ONBUILD COPY x", "dockerfile parse error on line 2: COPY requires at least two arguments"),
    "healthcheck": ("HEALTHCHECK FOO x", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
    "healthcheck interval": ("HEALTHCHECK --interval=5 CMD x", "time: missing unit in duration \"5\""),
    "signal": ("STOPSIGNAL what ever", "Invalid signal: what ever"),
    "signal that does not exist": ("STOPSIGNAL FOO", "Invalid signal: FOO"),
    "copy from a stage that is not there": ("COPY --from=5 / /x", "invalid from flag value 5: index out of bounds"),
    "copy from the stage itself": ("COPY --from=0 / /x", "invalid from flag value 0: refers to current build stage"),
    "a server that does not answer": ("ADD http://127.0.0.1:1/x /x", 'ADD failed: Get "http://127.0.0.1:1/x": dial tcp 127.0.0.1:1: connect: connection refused'),
    "port": ("EXPOSE 80x", "Invalid containerPort: 80x"),
    "shell": ("SHELL sh -c", "SHELL requires the arguments to be in JSON form"),
    "here-document": ("RUN <<EOF\necho", "dockerfile parse error on line 2: unterminated heredoc"),
    "insecure": ("RUN --security=insecure true", "--security"),
    "mount": ("RUN --mount=type=what,target=/x true", "unsupported mount type \"what\""),
    "mount's key": ("RUN --mount=type=tmpfs,target=/x,id=3 true", "unexpected key 'id' for mount type 'tmpfs'"),
    "secret": ("RUN --mount=type=secret,id=s,required=true true", "cannot carry it"),
    "git": ("ADD https://localhost:1/x.git /x", "git fetch: fatal: unable to access 'https://localhost:1/x.git/'"),
    "git by ssh": ("ADD git@localhost:x.git /x", "a Git repository by SSH is not implemented by boxwright"),
    "run": ("RUN exit 3", "The command '/bin/sh -c exit 3' returned a non-zero code: 3"),
    "program": ('RUN ["/no/such"]', "/no/such"),
    "a deletion's name": ("RUN mkdir /x\nCOPY <<.wh.f /x/\n1\n.wh.f", "a name that begins with .wh. means a deletion in a layer"),
}  # fmt: skip


@pytest.mark.skipif(PEER, reason="texts of a later version")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(engine: Engine, build: Builder, name: str) -> None:
    text, error = REFUSED[name]
    built = build(engine, builds.archive(FILES, f"FROM busybox\n{text}\n"))
    assert not built.image and error in built.error, built
    assert engine.ok("ps", "-aq") == ""


@pytest.mark.skipif(PEER, reason="texts of a later version")
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("RUN true\nFROM busybox\n", "dockerfile parse error on line 1: no build stage in current context"),
        ("ARG A=1\n", "dockerfile parse error on line 1: no build stage in current context"),
        ("# nothing\n", "file with no instructions"),
        ("# escape=x\nFROM busybox\n", "invalid ESCAPE 'x' does not match ` or \\"),
        ("FROM $NOTHING\n", "base name ($NOTHING) should not be blank"),
        ("FROM scratch\n", "No image was generated. Is your Dockerfile empty?"),
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
    ],
)
def test_refused_as_a_whole(engine: Engine, build: Builder, text: str, error: str) -> None:
    built = build(engine, builds.archive({}, text))
    assert not built.image and error in built.error, built


def test_triggers_of_a_base(engine: Engine, build: Builder) -> None:
    base = builds.by_docker_py(
        engine, builds.archive({}, "FROM busybox\nONBUILD COPY a.txt /x\nONBUILD RUN cat /x > /y\n"), tag="triggers:1"
    )
    built = build(engine, builds.archive(FILES, "FROM triggers:1\nENV A=1\n"))
    assert "# Executing 2 build triggers\n" in built.said and base.image
    assert engine.ok("run", "--rm", built.image, "cat", "/y") == "A"
    assert not builds.config(engine, built.image)["Config"].get("OnBuild")
    engine.ok("rmi", "-f", "triggers:1")


def test_triggers_that_need_a_stage(engine: Engine, build: Builder) -> None:
    """Nothing in the Dockerfile itself needs `two`, whether it is told before or after the stage that has the triggers."""
    base = builds.archive({}, "FROM busybox\nONBUILD COPY --from=two /x /y\n")
    builds.by_docker_py(engine, base, tag="triggers:3")
    stages = "FROM busybox AS one\nRUN echo 1 > /x\nFROM one AS two\nRUN echo 2 >> /x\n"
    built = build(engine, builds.archive({}, f"{stages}FROM triggers:3\nENV A=1\n"))
    assert built.image and engine.ok("run", "--rm", built.image, "cat", "/y") == "1\n2", built
    late = (
        f"FROM busybox AS zero\nRUN echo 0 > /0\n{stages}FROM triggers:3 AS third\nFROM zero\nCOPY --from=third /y /z\n"
    )
    built = build(engine, builds.archive({}, late))
    assert built.image and engine.ok("run", "--rm", built.image, "cat", "/z") == "1\n2", built
    engine.ok("rmi", "-f", "triggers:3")


@pytest.mark.skipif(PEER, reason="BuildKit's")
def test_arguments_that_are_built_in(engine: Engine) -> None:
    names = {
        "BUILDKIT_SANDBOX_HOSTNAME": "sandy", "BUILDKIT_CACHE_MOUNT_NS": "apart", "BUILDKIT_SYNTAX": "x", "BUILDKIT_INLINE_CACHE": "1",
        "BUILDKIT_MULTI_PLATFORM": "1", "http_proxy": "http://proxy.invalid",
    }  # fmt: skip
    text = "FROM busybox\nRUN --mount=type=cache,id=ns,target=/c hostname > /x; echo $http_proxy >> /x; ls /c >> /x; touch /c/f\n"
    builds.by_docker_py(engine, builds.archive({}, text))
    built = builds.by_docker_py(engine, builds.archive({}, text), buildargs=names, nocache=True)
    assert engine.ok("run", "--rm", built.image, "cat", "/x") == "sandy\nhttp://proxy.invalid", built
    assert "not consumed" not in built.said and "proxy" not in engine.ok("history", "--no-trunc", built.image).replace(
        "$http_proxy", ""
    )


def test_stages_with_much_to_say(engine: Engine) -> None:
    """Those that wait until they are told do not keep the places that the stages before them need."""
    noise = "RUN tr '\\0' x < /dev/zero | head -c 1500000\n"
    count = (os.cpu_count() or 1) + 1
    text = "FROM busybox AS a\nRUN echo 1 > /x\nFROM busybox AS b\nCOPY --from=a /x /x\n"
    text += "".join(f"FROM busybox AS n{number}\nRUN echo {number}\n{noise}" for number in range(count))
    text += "FROM b\n" + "".join(f"COPY --from=n{number} /etc/group /n{number}\n" for number in range(count))
    built = builds.by_docker_py(engine, builds.archive({}, text), nocache=True)
    assert built.image and built.said.count("x") >= 1_500_000 * count, built.error


@pytest.mark.skipif(PEER, reason="syntax of a later version")
def test_a_trigger_with_a_document(engine: Engine, build: Builder) -> None:
    builds.by_docker_py(engine, builds.archive({}, "FROM busybox\nONBUILD RUN <<E\necho 1 > /y\nE\n"), tag="triggers:2")
    built = build(engine, builds.archive({}, "FROM triggers:2\nENV A=1\n"))
    assert engine.ok("run", "--rm", built.image, "cat", "/y") == "1", built.error
    engine.ok("rmi", "-f", "triggers:2")
