#!/usr/bin/env bash
# The README's two commands, `make demo` and `make test`, on a machine with only Debian and the programs that the
# README requires: python3, python3-venv, make and git.
#
#   scripts/fresh_machine.sh                     Debian 13, Python 3.13
#   scripts/fresh_machine.sh --python 3.11       Debian 12, because Debian 13 packages no 3.11
#   scripts/fresh_machine.sh --suite bookworm    a Debian release by its name
#   scripts/fresh_machine.sh --ci                `make demo` and the unit tests only
#   scripts/fresh_machine.sh "make check"        other commands, one an argument; they go after the options
#
# mmdebstrap builds a root file system once and keeps it in the cache. Each run works in a copy of it: a clone of this
# checkout's HEAD with nothing beside it, an ordinary user, no locale, no variables but PATH, HOME and USER. pip gets
# this machine's pip configuration, because only the machine knows its package index. The run has a mount namespace with
# /proc and /dev/shm, and a process namespace that ends all of its processes: nothing stays behind.
#
# QTS_CI_CACHE   cache directory, outside of the checkout (default /var/cache/qts-data-ci)
set -euo pipefail
umask 022

readonly PACKAGES=python3,python3-venv,make,git
readonly CACHE="${QTS_CI_CACHE:-/var/cache/qts-data-ci}"
readonly TESTER=tester
CHECKOUT=$(cd "$(dirname "$0")/.." && pwd -P)
readonly CHECKOUT

log() { printf 'fresh_machine: %s\n' "$*" >&2; }
fail() {
  log "$*"
  exit 1
}

# --- The root file system ----------------------------------------------------------------------------------------

is_complete() { [[ -x $1/usr/bin/python3 && -x $1/usr/bin/make && -x $1/usr/bin/git && -c $1/dev/null ]]; }

build_tree() {
  command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing: apt install mmdebstrap debian-archive-keyring"
  rm -rf --one-file-system "$tree" "$tree".*
  local try building
  for try in 1 2 3; do
    building=$(mktemp -d "$tree.XXXXXX")
    log "building a Debian $suite tree with ${PACKAGES//,/, } in $CACHE (attempt $try)"
    if mmdebstrap --quiet --variant=minbase --include="$PACKAGES" --aptopt='Acquire::Retries "3"' "$suite" "$building" \
      9>&- && is_complete "$building"; then
      chmod 755 "$building"
      mv -T "$building" "$tree"
      return
    fi
    rm -rf --one-file-system "$building"
    sleep $((try * 5))
  done
  fail "mmdebstrap failed three times"
}

# --- Settings of this machine that pip needs to reach the package index ----------------------------------------------

# Variables of pip, of proxies and of certificates.
inherited_variables() {
  env -0 | while IFS= read -r -d '' variable; do
    case ${variable%%=*} in
      PIP_*|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|*_proxy|*_PROXY) printf '%s\0' "$variable" ;;
    esac
  done
}

# Configuration files that pip reads on this machine; each is copied to the place where pip looks for it there.
copy_pip_configuration() {
  local file
  for file in "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "$HOME/.pip/pip.conf"; do
    if [[ -f $file ]]; then
      install -D -m 0644 "$file" "$machine/home/$TESTER/.config/pip/pip.conf"
      break
    fi
  done
  for file in /etc/pip.conf /etc/xdg/pip/pip.conf; do
    if [[ -f $file ]]; then install -D -m 0644 "$file" "$machine$file"; fi
  done
}

# Absolute paths in the configuration and the variables: constraints, certificates, folders of wheels. The pages of an
# index in a folder link to files beside it, so the parent folder is included.
named_paths() {
  {
    cat "$machine/home/$TESTER/.config/pip/pip.conf" "$machine/etc/pip.conf" "$machine/etc/xdg/pip/pip.conf" 2>/dev/null
    inherited_variables | tr '\0' '\n'
  } | grep -oE '(file://|[= 	])/[^ 	,"'\'']+' | sed -E 's,^file://(/.*)/[^/]+/?$,\1,; s,^[= 	],,' | sort -u
}

# --- Inside the namespaces: mounts, then the commands as an ordinary user --------------------------------------------

mount_machine() {
  mount -t proc proc "$machine/proc"
  mkdir -p "$machine/dev/shm"
  mount -t tmpfs -o mode=1777 tmpfs "$machine/dev/shm"
  local path
  while IFS= read -r path; do
    if [[ -f $path ]]; then
      # A link of the tree would lead out of it.
      rm -f "$machine$path"
      install -D -m 0644 "$path" "$machine$path"
    elif [[ -d $path && $path != /etc/* && $path != / ]]; then
      mkdir -p "$machine$path"
      mount --bind -o ro "$path" "$machine$path"
    fi
  done < <(named_paths)
}

as_tester() {
  local variables=()
  mapfile -d '' -t variables < <(inherited_variables)
  # shellcheck disable=SC2016  # $1 belongs to the inner shell
  chroot --userspec="$TESTER:$TESTER" "$machine" /usr/bin/env -i PATH=/usr/bin:/bin "HOME=/home/$TESTER" \
    "USER=$TESTER" "${variables[@]}" sh -c 'cd "$HOME/qts_data" && exec "$@"' sh "$@" 9>&-
}

run_commands() {
  mount_machine
  as_tester sh -c '. /etc/os-release; echo "$PRETTY_NAME, $(python3 --version), $(make --version | head -n 1)"
    ls -A ..; git log -1 --format="HEAD %h %s"'
  local command status=0
  for command in "${commands[@]}"; do
    log "\$ $command"
    # shellcheck disable=SC2086  # a command and its arguments
    as_tester $command || { status=$?; log "'$command' ended with status $status"; break; }
  done
  return "$status"
}

# --------------------------------------------------------------------------------------------------------------------

machine='' child=''

# unshare ignores other signals while it waits. When the first process of the namespace ends, all others end, and its
# mounts disappear.
clean_up() {
  if [[ -n $child ]] && kill -KILL "$child"; then wait "$child" || true; fi
  rm -rf --one-file-system "$machine"
}

run_machine() {
  machine=$(mktemp -d "$CACHE/machine.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  cp -a --reflink=auto "$tree/." "$machine"
  cp --dereference /etc/resolv.conf "$machine/etc/resolv.conf"
  cp --dereference /etc/hosts "$machine/etc/hosts"
  chroot "$machine" useradd --create-home --shell /bin/sh "$TESTER"
  copy_pip_configuration
  if [[ -n $(git -C "$CHECKOUT" status --porcelain --untracked-files=no) ]]; then
    log "changes that are not committed are left out"
  fi
  # By the transport, not by links: a missing object must make the clone fail.
  git clone --quiet --no-local "$CHECKOUT" "$machine/home/$TESTER/qts_data"
  chroot "$machine" chown -R "$TESTER:$TESTER" "/home/$TESTER"
  # In the background, because bash acts on a signal only after its foreground command has ended.
  unshare --mount --propagation private --pid --fork --kill-child -- \
    bash "$CHECKOUT/scripts/fresh_machine.sh" --inside "$machine" "${commands[@]}" </dev/null &
  child=$!
  local status=0
  wait "$child" || status=$?
  child=''
  log "Debian $suite: $([[ $status == 0 ]] && echo ok || echo FAILED), ${SECONDS} s"
  exit "$status"
}

usage() { fail "usage: scripts/fresh_machine.sh [--suite NAME] [--python 3.11|3.13] [--ci] [COMMAND...]"; }

main() {
  if [[ ${1:-} == --inside ]]; then
    machine=$2
    commands=("${@:3}")
    run_commands
    return
  fi
  suite=trixie
  commands=("make demo" "make test")
  while (($#)); do
    case $1 in
      --suite) [[ ${2:-} =~ ^[a-z]+$ ]] || usage; suite=$2; shift ;;
      --python)
        case ${2:-} in
          3.11) suite=bookworm ;;
          3.13) suite=trixie ;;
          *) fail "Debian packages Python 3.11 (Debian 12) and 3.13 (Debian 13), not '${2:-}'" ;;
        esac
        shift
        ;;
      --ci) commands=("make demo" "make test T=tests/unit") ;;
      -*) usage ;;
      *) commands=("$@") && break ;;
    esac
    shift
  done
  ((EUID == 0)) || fail "must run as root: it builds a root file system and changes into it"
  [[ $CACHE == /* ]] || fail "QTS_CI_CACHE must be an absolute path, not '$CACHE'"
  unshare --mount --pid --fork true 2>/dev/null || fail "this machine forbids mount and process namespaces"
  # Readable by root only: the tree contains set-user-id programs without updates.
  install -d -m 0700 "$CACHE"
  tree=$CACHE/fresh-$suite
  exec 9>"$CACHE/fresh-$suite.lock"
  flock 9
  is_complete "$tree" || build_tree
  flock --unlock 9
  run_machine
}

main "$@"
