#!/usr/bin/env bash
# A throwaway PostgreSQL 17 with the Apache edition of TimescaleDB, for the test suite.
#
#   scripts/apache_server.sh start    start it if it is not running; print its URL, and nothing else, on stdout
#   scripts/apache_server.sh stop     stop it and delete its data
#   scripts/apache_server.sh status   print whether it runs; exit status 3 if it does not
#
# Debian 13 packages the Apache edition. If the machine has these packages, the script uses them. Elsewhere
# a Debian 13 tree is built once with mmdebstrap, kept in the cache directory, and the server runs in it by chroot:
# no container engine, no mounts, nothing installed on the machine.
#
# QTS_CI_CACHE   cache directory, outside of the checkout (default /var/cache/qts-data-ci)
set -euo pipefail
umask 022

readonly PG_VERSION=17
readonly PACKAGES="postgresql-${PG_VERSION},postgresql-${PG_VERSION}-timescaledb"
readonly SUITE=trixie
readonly PG_BIN="/usr/lib/postgresql/${PG_VERSION}/bin"
readonly EXTENSION="/usr/share/postgresql/${PG_VERSION}/extension/timescaledb.control"
readonly CACHE="${QTS_CI_CACHE:-/var/cache/qts-data-ci}"
readonly ROOTFS="$CACHE/rootfs"
readonly STATE="$CACHE/apache_server.state"

# The caller of `start` reads stdout: keep it for the URL, and send everything else to stderr.
exec 3>&1 1>&2

log() { printf 'apache_server: %s\n' "$*" >&2; }
fail() {
  log "$*"
  exit 1
}

# --- The state of the server, in a file that only root can read ------------------------------------------------

# root is the tree in which the server runs, empty for the machine's own; directory is a path inside it.
# Until a server has started and answered, its pid is empty.
pid='' port='' password='' root='' directory=''

write_state() {
  (
    umask 077
    printf '%s\n' "pid=$pid" "port=$port" "password=$password" "root=$root" "directory=$directory" >"$STATE.new"
  )
  mv -f "$STATE.new" "$STATE"
}

read_state() {
  pid='' port='' password='' root='' directory=''
  [[ -f $STATE ]] || return 1
  local key value
  while IFS='=' read -r key value; do
    case $key in
      pid) pid=$value ;;
      port) port=$value ;;
      password) password=$value ;;
      root) root=$value ;;
      directory) directory=$value ;;
      *) fail "$STATE is not readable: $key" ;;
    esac
  done <"$STATE"
  [[ $directory == /var/tmp/qts-apache.* && $directory != *..* ]] || fail "$STATE names the directory '$directory'"
}

# A process number alone may belong to another process by now. A postmaster works in its own data directory, and that
# directory's name is used once: together they identify our process.
is_ours() {
  [[ $1 =~ ^[1-9][0-9]*$ && $(readlink "/proc/$1/cwd") == "$(readlink -f "$root$directory/data")" ]]
}

is_running() { read_state && is_ours "$pid"; }

# --- Running the server's programs as the user postgres, in the tree that has them -----------------------------

# Descriptors 3 and 9 must not live on in the server: a caller that reads our stdout would wait for its end, and the
# lock would stay taken. The server does not see the caller's PG* and LD_* variables either.
as_postgres() {
  local clean passwd ids
  clean=(env -i "PATH=$PG_BIN:/usr/bin:/bin" LC_ALL=C.UTF-8 "HOME=$directory" "PGPASSFILE=$directory/pgpass")
  passwd=$(grep '^postgres:' "$root/etc/passwd") || fail "no user postgres in $root/etc/passwd"
  ids=$(cut -d: -f3,4 <<<"$passwd")
  if [[ -n $root ]]; then
    chroot --userspec="$ids" --groups='' "$root" "${clean[@]}" "$@" 3>&- 9>&-
  else
    (cd / && exec setpriv --reuid="${ids%:*}" --regid="${ids#*:}" --clear-groups "${clean[@]}" "$@" 3>&- 9>&-)
  fi
}

has_server() { [[ -x $1$PG_BIN/postgres && -f $1$EXTENSION ]]; }

build_rootfs() {
  command -v mmdebstrap >/dev/null ||
    fail "neither ${PACKAGES/,/ and } nor mmdebstrap is installed; one of them is needed"
  # Remove the remains of an interrupted build. Never enter another file system: it might be a mounted /dev.
  rm -rf --one-file-system "$ROOTFS" "$CACHE"/rootfs.*
  local try
  for try in 1 2 3; do
    building=$(mktemp -d "$CACHE/rootfs.XXXXXX")
    log "building a Debian $SUITE tree with ${PACKAGES/,/ and } in $CACHE (attempt $try)"
    # Debian would create an unused cluster: the hook prevents it.
    # shellcheck disable=SC2016  # $1 is the hook's argument
    if mmdebstrap --quiet --variant=apt --include="$PACKAGES" --aptopt='Acquire::Retries "3"' \
      --essential-hook='mkdir -p "$1/etc/postgresql-common/createcluster.d"' \
      --essential-hook='echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.d/none.conf"' \
      "$SUITE" "$building" 3>&- 9>&- && has_server "$building"; then
      chmod 755 "$building"
      mv -T "$building" "$ROOTFS"
      building=''
      log "the tree is complete"
      return
    fi
    rm -rf --one-file-system "$building"
    building=''
    sleep $((try * 5))
  done
  fail "mmdebstrap failed three times"
}

# --- start -----------------------------------------------------------------------------------------------------

building=''

# A start that fails half way or is interrupted leaves nothing behind.
abandon() {
  if [[ -n $building ]]; then rm -rf --one-file-system "$building"; fi
  if ! is_running; then forget; fi
}

write_configuration() {
  # shellcheck disable=SC2016  # $1 belongs to the inner shell
  as_postgres sh -c 'cat >>"$1"' sh "$directory/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
# A chroot has no /dev/shm.
dynamic_shared_memory_type = mmap
max_connections = 100
max_worker_processes = 32
shared_preload_libraries = 'timescaledb'
timescaledb.license = 'apache'
timescaledb.telemetry_level = off
timezone = 'UTC'
log_timezone = 'UTC'
# The data live only as long as the test run, so a crash may lose them.
fsync = off
synchronous_commit = off
full_page_writes = off
CONF
}

query() { as_postgres psql -X -A -t -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U postgres -c "$1" postgres; }

start_server() {
  if is_running; then
    log "already running: process $pid, port $port"
    print_url
    return
  fi
  trap abandon EXIT
  trap 'exit 130' INT TERM HUP
  # Remove the remains of a killed server or an interrupted start.
  forget

  root='' directory='' pid=''
  if ! has_server ''; then
    root=$ROOTFS
    has_server "$ROOTFS" || build_rootfs
    [[ -c $ROOTFS/dev/null ]] || fail "$ROOTFS/dev/null is not a device: this machine forbids device nodes"
  fi

  password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  directory=$(as_postgres mktemp -d /var/tmp/qts-apache.XXXXXXXX)
  write_state
  # shellcheck disable=SC2016  # $1 belongs to the inner shell
  as_postgres sh -c 'umask 077 && cat >"$1"' sh "$directory/password" <<<"$password"
  # shellcheck disable=SC2016
  as_postgres sh -c 'umask 077 && cat >"$1"' sh "$directory/pgpass" <<<"127.0.0.1:*:*:postgres:$password"
  # Any user of the machine can reach a port of 127.0.0.1: hence a password.
  as_postgres initdb -D "$directory/data" -U postgres --pwfile="$directory/password" \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null

  local try
  for try in 1 2 3 4 5; do
    # Below the ports that the kernel assigns by itself. If another program has the port, the server reports it and ends.
    port=$((20000 + RANDOM % 12000))
    write_configuration
    if as_postgres pg_ctl start --silent -w -t 60 -D "$directory/data" -l "$directory/log" </dev/null; then
      break
    fi
    tail -n 20 "$root$directory/log" >&2 || true
    [[ $try -lt 5 ]] || fail "the server did not start"
    grep -q 'could not bind' "$root$directory/log" || fail "the server did not start"
  done

  local edition
  edition=$(query "BEGIN; CREATE EXTENSION timescaledb;
    SELECT extversion || ' ' || current_setting('timescaledb.license') FROM pg_extension WHERE extname = 'timescaledb';
    ROLLBACK" 2>&1) || fail "the server does not answer: $edition"
  [[ $edition == *' apache' ]] || fail "not the Apache edition: $edition"

  pid=$(postmaster)
  is_ours "$pid" || fail "process $pid is not the server that was started"
  write_state
  log "running: process $pid, port $port, TimescaleDB $edition"
  print_url
}

print_url() { printf 'timescaledb+psycopg://postgres:%s@127.0.0.1:%s/postgres\n' "$password" "$port" >&3; }

# --- stop ------------------------------------------------------------------------------------------------------

postmaster() { head -n 1 "$root$directory/data/postmaster.pid" 2>/dev/null || true; }

# Ends the server of the state file if it runs, and deletes its files. The shutdown is immediate: the data are not
# needed.
forget() {
  read_state || return 0
  local process waited=0
  process=$(postmaster)
  if is_ours "$process"; then
    kill -QUIT "$process" || true
    while is_ours "$process"; do
      if ((waited == 150)); then kill -KILL "$process" || true; fi
      if ((waited == 200)); then fail "process $process does not end"; fi
      sleep 0.1
      waited=$((waited + 1))
    done
  fi
  # Backends of a killed server write until they notice its end.
  for waited in 1 2 3 4 5; do
    rm -rf --one-file-system "$root$directory" && break
    sleep 1
  done
  rm -f "$STATE"
}

# ---------------------------------------------------------------------------------------------------------------

main() {
  local verb=${1:-}
  [[ $# -eq 1 && $verb =~ ^(start|stop|status)$ ]] || fail "usage: scripts/apache_server.sh start|stop|status"
  ((EUID == 0)) || fail "must run as root: it changes into another tree and to the user postgres"
  [[ $CACHE == /* ]] || fail "QTS_CI_CACHE must be an absolute path, not '$CACHE'"
  if [[ ! -d $CACHE ]]; then
    if [[ $verb != start ]]; then
      log "not running"
      [[ $verb == stop ]] && exit 0
      exit 3
    fi
    # Readable by root only: the tree contains set-user-id programs without updates.
    install -d -m 0700 "$CACHE"
  fi
  exec 9>"$CACHE/lock"
  flock 9
  case $verb in
    start) start_server ;;
    stop)
      if is_running; then log "stopping process $pid"; else log "not running"; fi
      forget
      ;;
    status)
      if is_running; then
        log "running: process $pid, port $port"
      else
        log "not running"
        exit 3
      fi
      ;;
  esac
}

main "$@"
