# shellcheck shell=bash
# What every verb of ./dev stands on: words on the terminal, folders, locks, and installing what is missing.
# Sourced by ./dev, which sets `checkout`. Nothing here knows of databases or of Trailmesh.

state=$checkout/.dev
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/trailmesh
# An ordinary user's PATH leaves out where Debian puts servers and useradd.
PATH=$PATH:/usr/sbin:/sbin
# Folders made here are entered by the unprivileged user that runs the servers; secrets set their own mode.
umask 022

# Colours only for a person who looks at a terminal and has not asked for none (https://no-color.org).
bold='' dim='' red='' green='' plain=''
if [[ -t 1 && -t 2 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
fi

say() { printf '%s\n' "$*" >&2; }

# die MESSAGE [ADVICE]: a failure always says what to do about it.
die() {
  say "${red}./dev: $1${plain}"
  [[ -z ${2:-} ]] || say "  → $2"
  exit 1
}

usage_error() {
  say "${red}./dev: $1${plain}"
  say "  → see ./dev help"
  exit 2
}

# VALUE as a word that a POSIX shell reads back unchanged.
quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

# PATH as a reader in the checkout would type it.
shown() { printf '%s' "${1#"$checkout"/}"; }

# The checkout's own folder. Mixing two users there would end in files that one of them cannot replace.
make_state() {
  mkdir -p "$state" 2>/dev/null || true
  [[ -d $state && -w $state ]] || die "$state is not writable by $(id -un)" \
    "run ./dev as $(stat -c %U "$state" 2>/dev/null || echo "the owner of $checkout"), or remove that folder"
}

# with_lock FILE COMMAND…: one at a time. The lock's descriptor is closed for the command, so that a server it leaves running
# does not hold the lock on.
with_lock() {
  local file=$1 name=$1
  shift
  (
    if ! flock --timeout 1 9; then
      say "${dim}waiting for another ./dev that is at the same work${plain}"
      flock --timeout 900 9 || die "$name is still locked after 15 minutes" "see who holds it with: lslocks"
    fi
    "$@" 9>&-
  ) 9>>"$file"
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root for: $*" "run that command as root, or install sudo"
  fi
}

# require PROGRAM PACKAGE …: installs the Debian packages of those programs that are not there.
require() {
  local missing=()
  while (($#)); do
    type -P "$1" >/dev/null || [[ " ${missing[*]} " == *" $2 "* ]] || missing+=("$2")
    shift 2
  done
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}

# fetch_packages FOLDER PACKAGE…: Debian packages as files; nothing is installed.
fetch_packages() {
  local folder=$1
  shift
  mkdir -p "$folder"
  (cd "$folder" && { apt-get --quiet=2 download "$@" 2>/dev/null || { as_root apt-get --quiet=2 update && apt-get --quiet=2 download "$@"; }; }) ||
    die "Debian packages cannot be fetched: $*" "check the network and this machine's apt sources, then start again"
}

install_packages() {
  command -v apt-get >/dev/null || die "missing: $*, and this machine has no apt" "install these Debian packages' programs by hand"
  say "${bold}installing Debian packages: $*${plain}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)
  mkdir -p "$state"
  # Another apt may hold the package lists for a moment, and for those apt itself does not wait.
  as_root "${apt[@]}" update >"$state/apt.log" 2>&1 || { sleep 10 && as_root "${apt[@]}" update; } >>"$state/apt.log" 2>&1 ||
    say "apt-get update failed; going on with the lists that are there"
  # Servers are started by ./dev, with data of their own: what a package would start at once is kept from it.
  printf 'create_main_cluster = false\n' >"$state/createcluster.conf"
  [[ -e /etc/postgresql-common/createcluster.conf ]] || as_root install -D --mode=644 "$state/createcluster.conf" /etc/postgresql-common/createcluster.conf
  local policy=/usr/sbin/policy-rc.d made=no
  [[ -e $policy ]] || { printf '#!/bin/sh\nexit 101\n' >"$state/policy-rc.d" && as_root install --mode=755 "$state/policy-rc.d" "$policy" && made=yes; }
  local outcome=0
  as_root "${apt[@]}" install --yes --no-install-recommends "$@" >>"$state/apt.log" 2>&1 || outcome=$?
  [[ $made == no ]] || as_root rm -f "$policy"
  ((outcome == 0)) || {
    tail -n 15 "$state/apt.log" >&2
    die "apt-get install $* failed" "see $(shown "$state/apt.log"), then run it by hand and start again"
  }
}

# cargo_tool NAME VERSION: prints the path of a cargo tool of exactly that version, built once per machine and user.
cargo_tool() {
  local root=$cache/tools/$1-$2
  mkdir -p "$cache/tools"
  with_lock "$cache/tools/$1.lock" build_cargo_tool "$1" "$2" "$root" || return
  printf '%s\n' "$root/bin/$1"
}

build_cargo_tool() {
  [[ -x $3/bin/$1 ]] && return
  say "${bold}building $1 $2 (once; about three minutes)${plain}"
  # Outside the checkout, so that its configuration has no say, and with a target folder of its own.
  (cd "$cache/tools" && CARGO_TARGET_DIR=$cache/tools/build nice cargo install --quiet --locked --version "$2" --root "$3" "$1") >&2 ||
    die "$1 $2 does not build" "try by hand: cargo install --locked --version $2 $1"
  rm -rf "$cache/tools/build"
}

# build_needs: a C compiler links Rust programs and compiles the zstd and ring that some crates carry.
build_needs() {
  command -v cargo >/dev/null || die "no cargo on the PATH" "install Rust 1.95 or newer (rustup), then start again"
  require cc build-essential jq jq
}
