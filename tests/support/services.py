"""Small images that stand for the servers of testcontainers' modules: busybox that listens and says the expected lines.

No download: what a module waits for (a log line, an HTTP answer, a client's PING, a command that succeeds) is what its
image gives, and no more.
"""

import tarfile
from pathlib import Path

from support import images

# A Redis that knows as much as a client needs to connect, set and get.  Requests are arrays of bulk strings.
REDIS = b"""#!/bin/sh
# One connection: RESP in, RESP out.
mkdir -p /keys
cr=$(printf '\\r')
ask() { read -r line || exit 0; line=${line%$cr}; }
while ask; do
    count=${line#\\*}
    set --
    while [ "$count" -gt 0 ]; do
        ask; ask
        set -- "$@" "$line"
        count=$((count - 1))
    done
    case $(echo "$1" | tr a-z A-Z) in
        PING) printf '+PONG\\r\\n' ;;
        HELLO) printf '%%1\\r\\n$5\\r\\nproto\\r\\n:3\\r\\n' ;;
        AUTH) [ "$2" = "$PASSWORD" ] && printf '+OK\\r\\n' || printf -- '-WRONGPASS\\r\\n' ;;
        SET) printf %s "$3" >"/keys/$2"; printf '+OK\\r\\n' ;;
        GET) [ -e "/keys/$2" ] && printf '$%d\\r\\n%s\\r\\n' "$(wc -c <"/keys/$2")" "$(cat "/keys/$2")" || printf '_\\r\\n' ;;
        *) printf '+OK\\r\\n' ;;
    esac
done
"""
# psql: refuses a password that is not the one that the server was started with.
PSQL = b"""#!/bin/sh
[ "$PGPASSWORD" = "$POSTGRES_PASSWORD" ] || { echo "FATAL: password authentication failed" >&2; exit 2; }
nc -w 1 127.0.0.1 5432 </dev/null >/dev/null || exit 2
echo " PostgreSQL stand-in"
"""
MYSQL = b"""#!/bin/sh
echo "mysqld: ready for connections. port: 0"
sleep 0.1
for file in /docker-entrypoint-initdb.d/*; do [ -e "$file" ] && echo "seeded from $(basename $file)"; done
echo "mysqld: ready for connections. port: 3306"
exec nc -ll -p 3306 -e cat
"""

SERVERS: dict[str, tuple[dict[str, bytes | str | None], list[str], int]] = {
    "redis": ({"bin/redis-session": REDIS}, ["nc", "-ll", "-p", "6379", "-e", "/bin/redis-session"], 6379),
    "postgres": ({"bin/psql": PSQL}, ["nc", "-ll", "-p", "5432", "-e", "cat"], 5432),
    "mysql": ({"bin/server": MYSQL, "docker-entrypoint-initdb.d": None}, ["/bin/server"], 3306),
    "nginx": ({"www/index.html": b"Welcome to nginx!\n"}, ["httpd", "-f", "-h", "/www"], 80),
    "nats": ({}, ["sh", "-c", "echo '[1] [INF] Server is ready'; exec nc -ll -p 4222 -e cat"], 4222),
}

# testcontainers' reaper: reads filters, answers ACK, and when the last client has gone removes what has the labels.
RYUK = rb"""
use strict; use warnings; use IO::Socket::INET; use IO::Socket::UNIX; use IO::Select;
$| = 1;
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 5, ReuseAddr => 1) or die "listen: $!";
print "2024/01/01 00:00:00 Started!\n";
my (@filters, %clients);
my $select = IO::Select->new($server);
my ($seconds) = ($ENV{RYUK_RECONNECTION_TIMEOUT} // "10s") =~ /(\d+)/;
while (1) {
    my @ready = $select->can_read(%clients || !@filters ? undef : $seconds);
    last if !@ready;
    for my $handle (@ready) {
        if ($handle == $server) { my $client = $server->accept; $clients{$client} = 1; $select->add($client); next; }
        my $line = <$handle>;
        if (defined $line) { $line =~ s/\s+$//; push @filters, $line; print $handle "ACK\n"; $handle->flush; next; }
        $select->remove($handle); delete $clients{$handle}; close $handle;
    }
}
sub call {
    my ($method, $path) = @_;
    my $engine = IO::Socket::UNIX->new(Peer => "/var/run/docker.sock") or die "engine: $!";
    print $engine "$method /v1.41$path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    $engine->flush;
    local $/;
    return <$engine>;
}
for my $filter (@filters) {
    my ($label) = $filter =~ /^label=(.*)$/ or next;
    my $query = "%7B%22label%22%3A%5B%22$label%22%5D%7D";
    my $listed = call("GET", "/containers/json?all=1&filters=$query");
    while ($listed =~ /"Id":"([0-9a-f]{64})"/g) { call("DELETE", "/containers/$1?force=1&v=1"); print "removed $1\n"; }
}
"""


def archive(path: Path) -> Path:
    """`NAME:stand-in` of every server, on busybox."""
    base = images.busybox_layer()
    made: list[tuple[str, list[bytes], dict[str, object]]] = []
    for name, (files, command, port) in SERVERS.items():
        layers = [base, images.layer(list(files.items()))] if files else [base]
        config = {**images.BUSYBOX, "Cmd": command, "ExposedPorts": {f"{port}/tcp": {}}, "StopSignal": "SIGKILL"}
        made.append((f"{name}:stand-in", layers, config))
    return images.archive(path, made)


def ryuk_archive(path: Path) -> Path:
    """`ryuk:stand-in`, in the Perl that a minimal Debian has."""
    with tarfile.open(images.debian_archive()) as debian:
        (found,) = (member for member in debian.getmembers() if member.name.endswith("/layer.tar"))
        file = debian.extractfile(found)
        assert file
        base = file.read()
    program = images.layer([("ryuk.pl", RYUK)])
    return images.archive(
        path, [("ryuk:stand-in", [base, program], {"Cmd": ["perl", "/ryuk.pl"], "Env": ["PATH=/usr/bin"]})]
    )
