# shellcheck shell=bash
# Tools that come from the registries of Python and Node, pinned by version, and from Debian: one folder per set and user, outside the
# checkout.
# Sourced by ./dev after base.bash.

# python_home: prints the folder of a virtual environment with exactly what dev.d/python.txt says.
python_home() {
  local wanted=$checkout/dev.d/python.txt home
  # A virtual environment names its interpreter, so another one needs another folder.
  require python3 python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
  home=$(tools_folder python "$(python3 -c 'import sys; print(sys.prefix, sys.version)')" "$wanted")
  with_lock "$home.lock" make_python_home "$home" "$wanted" >&2 || return
  echo "$home"
}

make_python_home() {
  [[ ! -e $1/complete ]] || return 0
  say "${bold}installing Python tools into $1 (once; about 100 MB)${plain}"
  rm -rf "$1"
  {
    python3 -m venv "$1" && "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --requirement "$2"
  } || die "Python's packages of dev.d/python.txt did not install" "see above, and that the package index can be reached"
  touch "$1/complete"
}

# node_home: prints a folder with node_modules as dev.d/node/package-lock.json says.
node_home() {
  require node nodejs npm npm
  local home
  home=$(tools_folder node "$(node --version)" "$checkout/dev.d/node/package-lock.json")
  with_lock "$home.lock" make_node_home "$home" >&2 || return
  echo "$home"
}

make_node_home() {
  [[ ! -e $1/complete ]] || return 0
  say "${bold}installing Node packages into $1 (once; about 100 MB)${plain}"
  rm -rf "$1"
  mkdir -p "$1"
  cp "$checkout"/dev.d/node/package*.json "$1/"
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
    die "Node's packages of dev.d/node did not install" "see above, and that the package registry can be reached"
  touch "$1/complete"
}

# tools_folder KIND WORDS FILE: a folder that changes when the words or the file do.
tools_folder() {
  mkdir -p "$cache/tools"
  echo "$cache/tools/$1-$({ echo "$2" && cat "$3"; } | sha256sum | cut -c 1-16)"
}

# rsyslog_home: prints a folder with Debian's rsyslogd and what it needs beside the system's libraries. It is not installed: this machine
# keeps the log daemon that it has.
rsyslog_home() {
  local home
  home=$(tools_folder rsyslog "$(dpkg --print-architecture)" /etc/debian_version)
  with_lock "$home.lock" make_rsyslog_home "$home" >&2 || return
  echo "$home"
}

make_rsyslog_home() {
  [[ ! -e $1/complete ]] || return 0
  say "${bold}fetching rsyslog into $1 (once; about 5 MB)${plain}"
  rm -rf "$1"
  mkdir -p "$1/tree"
  local deb libraries
  fetch_packages "$1/debs" rsyslog rsyslog-openssl rsyslog-gnutls libfastjson4 libestr0
  for deb in "$1"/debs/*.deb; do dpkg-deb --extract "$deb" "$1/tree"; done
  libraries=$(dirname "$(dirname "$(find "$1/tree/usr/lib" -name imtcp.so)")")
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s -M %s "$@"\n' "$(quoted "$libraries")" "$(quoted "$1/tree/usr/sbin/rsyslogd")" "$(quoted "$libraries/rsyslog")" >"$1/rsyslogd"
  chmod +x "$1/rsyslogd"
  rm -rf "$1/debs"
  touch "$1/complete"
}

# tools_environment: where they are, as lines of NAME='VALUE'.
tools_environment() {
  local python node rsyslog go java
  python=$(python_home)/bin/python || return
  node=$(node_home) || return
  rsyslog=$(rsyslog_home)/rsyslogd || return
  go=$(go_client) || return
  java=$(java_client) || return
  printf 'TRAILMESH_TEST_PYTHON=%s\n' "$(quoted "$python")"
  printf 'TRAILMESH_TEST_NODE_HOME=%s\n' "$(quoted "$node")"
  printf 'TRAILMESH_TEST_RSYSLOGD=%s\n' "$(quoted "$rsyslog")"
  printf 'TRAILMESH_TEST_GO_CLIENT=%s\n' "$(quoted "$go")"
  printf 'TRAILMESH_TEST_JAVA_CLIENT=%s\n' "$(quoted "$java")"
}

print_tools() {
  (($# == 0)) || usage_error "./dev tools takes no arguments"
  make_state
  tools_environment
}

# --- what ./dev check does with them -----------------------------------------------------------------------------------------

check_protos() {
  local buf release
  buf=$(python_home)/bin/buf || return
  (cd "$checkout" && "$buf" lint && "$buf" format --diff --exit-code) || return
  release=$(git -C "$checkout" describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true)
  if [[ -z $release ]]; then
    echo 'no release yet, so nothing that a change could break'
  else
    (cd "$checkout" && "$buf" breaking --against ".git#tag=$release") && echo "nothing breaks a client of $release"
  fi
}

check_openapi() {
  local home
  home=$(node_home) || return
  (cd "$checkout" && REDOCLY_TELEMETRY=off "$home/node_modules/.bin/redocly" lint --config dev.d/redocly.yaml docs/api/openapi.yaml)
}
