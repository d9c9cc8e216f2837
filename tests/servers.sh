#!/usr/bin/env bash
# Install and start what the slower tests need, run a command, and stop it all: a real S3 (Ceph's radosgw, one monitor,
# one OSD) and PostgreSQL, on loopback only. What cannot be had is left out; the tests that need it skip and say so.
# Usage: tests/servers.sh COMMAND...
set -u
D=$(mktemp -d "${TMPDIR:-/tmp}/hubbub-servers.XXXXXX"); chmod 755 "$D"
stop() {
  for pid in "$D"/ceph/run/*.pid; do [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null; done
  [ -d "$D/postgres" ] && su postgres -c "$PG/pg_ctl -D $D/postgres -m immediate stop" >/dev/null 2>&1
  rm -rf "$D"
}
trap stop EXIT

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  missing=""
  command -v radosgw >/dev/null || missing="$missing radosgw ceph-mon ceph-osd"
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
  if [ -n "$missing" ]; then
    echo "installing$missing"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
      >"$D/apt.log" 2>&1 || { echo "could not be installed:"; tail -3 "$D/apt.log"; }
  fi
fi

PG=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
if [ -n "$PG" ] && [ "$(id -u)" = 0 ]; then
  mkdir "$D/postgres" && chown postgres "$D/postgres"
  su postgres -c "$PG/initdb -D $D/postgres -A trust -U hub --no-sync" >/dev/null 2>&1 &&
    su postgres -c "$PG/pg_ctl -D $D/postgres -o '-p 5599 -k $D/postgres -c fsync=off -c listen_addresses=127.0.0.1' -w start" >/dev/null 2>&1 &&
    su postgres -c "$PG/createdb -h 127.0.0.1 -p 5599 -U hub mlflow" &&
    export HUBBUB_TEST_POSTGRES="postgresql+psycopg2://hub@127.0.0.1:5599/mlflow" && echo "PostgreSQL is up"
fi

if command -v radosgw >/dev/null && [ "$(id -u)" = 0 ]; then
  C="$D/ceph"; mkdir -p "$C"/{mon,osd,log,run}
  cat > "$C/ceph.conf" <<CONF
[global]
fsid = 22222222-2222-2222-2222-222222222222
mon host = v1:127.0.0.1:6790
ms bind msgr2 = false
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
osd objectstore = bluestore
bluestore block size = 4294967296
bluestore fsck on mount = false
bluestore cache autotune = false
bluestore cache size = 67108864
osd memory target = 402653184
run dir = $C/run
log file = $C/log/\$name.log
admin socket = $C/run/\$name.asok
mon cluster log file = $C/log/cluster.log
[mon.a]
mon data = $C/mon
[osd.0]
osd data = $C/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:7490
rgw dns name = 127.0.0.1
CONF
  c=(-c "$C/ceph.conf")
  if {
    monmaptool --create --clobber --fsid 22222222-2222-2222-2222-222222222222 --addv a '[v1:127.0.0.1:6790/0]' "$C/monmap" &&
      ceph-mon "${c[@]}" --mkfs -i a --monmap "$C/monmap" --public-addr 127.0.0.1 &&
      ceph-mon "${c[@]}" -i a --pid-file "$C/run/mon.pid" &&
      osd=$(cat /proc/sys/kernel/random/uuid) && timeout 180 ceph "${c[@]}" osd new "$osd" 0 &&
      ceph-osd "${c[@]}" -i 0 --mkfs --osd-uuid "$osd" &&
      ceph-osd "${c[@]}" -i 0 --pid-file "$C/run/osd.pid" &&
      radosgw "${c[@]}" -n client.rgw --pid-file "$C/run/rgw.pid"
    for _ in $(seq 900); do curl -s -o /dev/null http://127.0.0.1:7490 && break; sleep 0.2; done
    timeout 180 radosgw-admin "${c[@]}" user create --uid hub --display-name hub --access-key hub --secret-key hubsecret
  } >"$C/start.log" 2>&1; then
    export HUBBUB_TEST_S3=http://127.0.0.1:7490 && echo "S3 (Ceph) is up"
  else
    echo "S3 did not start:"; tail -3 "$C/start.log"
  fi
fi

"$@"
