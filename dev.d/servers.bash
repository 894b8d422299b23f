# shellcheck shell=bash
# Private database servers: real MariaDB and MySQL for tests and the demo, each in a folder and on a port of its own.
#
# MariaDB comes from Debian's packages (the -core ones, which start no system service). Debian 12 has no MySQL, but Debian's
# unstable suite does: those packages and the libraries they need are fetched by a private apt, which checks the archive's
# signatures and leaves the system alone, and run through their own dynamic loader, so that a newer libc does no harm.
#
# A server has a *folder* (the caller's name for it) and a *home* (where its files really are). They are the same place unless
# the servers' user cannot enter the folder or the path is too long for a Unix socket; then the home is under /var/tmp and
# FOLDER/home links to it. Nothing is remembered about a running server but its data folder: the process that has
# `--datadir=HOME/data` among its arguments is the server, so no stale pid file can mislead after a crash.
# Sourced by ./dev after base.bash.

engines=(mariadb mysql8 mysql9)
# Root may not run a database server, so as root they run as this system user.
server_account=trailmesh-dev
# A Unix socket's path ends at 107 bytes (sun_path in unix(7)); HOME/socket stays below 100.
home_length_limit=90

mysql8_version=8.0.45-1
mysql8_server_sha256=0d6227408f63c01dadce99c1639f2427cc88495a0b3ed3292a85d9c2aa64e1fd
mysql8_client_sha256=cbb6881d471c60bcb3f6ac2fd2b8e982c11836a0ce98469aef89b49d9a346aea

# --- who runs a server, and where ------------------------------------------------------------------------------------------

require_engine() {
  [[ " ${engines[*]} " == *" ${1:-} "* ]] || usage_error "no engine '${1:-}': there are ${engines[*]}"
}

server_user() { if ((EUID == 0)); then echo "$server_account"; else id -un; fi; }

# The command prefix that drops from root to the servers' user, in the array `drop`; empty for an ordinary user.
set_drop() {
  drop=()
  ((EUID == 0)) || return 0
  make_server_account
  drop=(setpriv "--reuid=$server_account" "--regid=$server_account" --clear-groups --inh-caps=-all --)
}

make_server_account() {
  id "$server_account" >/dev/null 2>&1 && return
  say "creating the system user $server_account for the servers (root may not run them)"
  useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$server_account" 2>/dev/null ||
    id "$server_account" >/dev/null || die "cannot create the user $server_account" "create it with: useradd --system $server_account"
}

# May the servers' user enter this folder?
enterable() {
  local drop
  set_drop
  "${drop[@]}" test -x "$1"
}

# Binaries are shared by all checkouts of a user. Root's own cache folder is usually closed to the servers' user.
binaries_cache() {
  mkdir -p "$cache"
  if enterable "$cache"; then echo "$cache"; else mkdir -p /var/cache/trailmesh && echo /var/cache/trailmesh; fi
}

# The home that belongs to FOLDER, once it was made.
home_of() { readlink -f "$1/home" 2>/dev/null || true; }

make_home() {
  local folder=$1 home
  [[ -d $(home_of "$folder") ]] && return
  home=$folder/home
  # The folder itself is opened for passing through (its home stays closed); its parents are not ours to change.
  ((EUID != 0)) || chmod a+x "$folder"
  if ((${#home} > home_length_limit)) || ! enterable "$folder"; then
    home=/var/tmp/trailmesh-$(id -u)-$(printf '%s' "$folder" | sha256sum | cut -c 1-16)
    ln -sfn "$home" "$folder/home"
  fi
  mkdir -p "$home"
  # /var/tmp is everybody's: a folder that somebody else put there is not ours to use.
  [[ $(stat -c %U "$home") == @("$(id -un)"|"$(server_user)") ]] || die "$home belongs to $(stat -c %U "$home")" "remove it"
  chmod 700 "$home"
  chown "$(server_user)" "$home"
}

# --- binaries --------------------------------------------------------------------------------------------------------------

# mysql_root ENGINE: the folder with that MySQL's programs.
mysql_root() {
  case $1 in
    mysql8) echo "$(binaries_cache)/mysql-${mysql8_version%-*}" ;;
    mysql9) echo "$(binaries_cache)/mysql-9.7" ;;
  esac
}

install_server() {
  require openssl openssl
  if [[ $1 == mariadb ]]; then
    require mariadbd mariadb-server-core mariadb-install-db mariadb-server-core mariadb mariadb-client-core mariadb-binlog mariadb-client
    return
  fi
  local root
  root=$(mysql_root "$1")
  [[ -e $root/complete ]] || with_lock "$root.lock" fetch_mysql "$1" "$root"
}

fetch_mysql() {
  local engine=$1 root=$2 work=$2.fetching
  [[ ! -e $root/complete ]] || return 0
  [[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die "no recipe for $engine on this architecture" "use ./dev up mariadb"
  say "${bold}fetching $engine from Debian's archive into $root (once; about 100 MB)${plain}"
  rm -rf "$work"
  mkdir -p "$work/debs/partial" "$work/lists/partial" "$work/tree"
  private_apt "$work" update
  case $engine in
    mysql8) # no suite lists it any more, so the packages are named, and checked by their digests
      pool_package "$work" "mysql-server-core-8.0_${mysql8_version}_amd64.deb" "$mysql8_server_sha256"
      pool_package "$work" "mysql-client-core-8.0_${mysql8_version}_amd64.deb" "$mysql8_client_sha256"
      private_apt "$work" install "$work"/*.deb
      ;;
    mysql9) private_apt "$work" install mysql-server-core mysql-client-core ;;
  esac
  local deb
  for deb in "$work"/*.deb "$work"/debs/*.deb; do
    [[ -e $deb && ${deb##*/} != @(perl|libperl)* ]] && dpkg-deb --extract "$deb" "$work/tree"
  done
  keep_mysql_programs "$work/tree" "$root"
  rm -rf "$work"
}

# An apt with lists, cache and idea of what is installed (nothing) of its own. Two suites, because what one no longer has
# the other still does. A mirror that lags behind is no reason not to test, so the age of its lists is not asked; their
# signatures are checked.
private_apt() {
  local work=$1 mirror
  mirror=$(debian_mirror)
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" trixie "$mirror" sid >"$work/sources.list"
  : >"$work/status"
  cat >"$work/apt.conf" <<CONF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::State::Status "$work/status";
Dir::Cache::Archives "$work/debs";
Dir::Cache::PkgCache "";
Dir::Cache::SrcPkgCache "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Install-Recommends "false";
APT::Get::Download-Only "true";
APT::Get::Assume-Yes "true";
APT::Sandbox::User "$(id -un)";
CONF
  APT_CONFIG=$work/apt.conf apt-get --quiet=2 "${@:2}" >"$work/apt.log" 2>&1 || {
    tail -n 15 "$work/apt.log" >&2
    die "fetching packages from $mirror failed (private apt: ${*:2})" "check the network and the mirror (TRAILMESH_DEBIAN_MIRROR names another), then start again"
  }
}

pool_package() {
  local work=$1 file=$2 sha256=$3
  /usr/lib/apt/apt-helper -o APT::Sandbox::User="$(id -un)" download-file \
    "$(debian_mirror)/pool/main/m/mysql-8.0/$file" "$work/$file" "SHA256:$sha256" >"$work/apt.log" 2>&1 || {
    tail -n 5 "$work/apt.log" >&2
    die "cannot fetch $file with the right digest" "set TRAILMESH_DEBIAN_MIRROR to a mirror whose pool still holds it"
  }
}

# The mirror that this machine's own apt uses for its Debian release.
debian_mirror() {
  local mirror=${TRAILMESH_DEBIAN_MIRROR:-} codename
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  for _ in 1 2; do
    [[ -z $mirror ]] || break
    # shellcheck disable=SC2016 # apt expands $(…) of its format itself
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
      awk -v codename="$codename" '$2 == codename && $3 == "main" && $4 == "Debian" { print $1; exit }')
    # A fresh machine has no package lists yet.
    [[ -n $mirror ]] || as_root apt-get --quiet=2 update >/dev/null 2>&1 || true
  done
  [[ -n $mirror ]] || die "no Debian mirror in this machine's apt sources" "name one in TRAILMESH_DEBIAN_MIRROR"
  echo "${mirror%/}"
}

# Leaves what a server and its tools need, with a wrapper for each program, and marks the folder complete.
keep_mysql_programs() {
  local tree=$1 root=$2 kept=$1/../kept program path
  mkdir -p "$kept/bin" "$kept/share"
  mv "$tree/usr/share/mysql" "$kept/share/"
  mv "$tree/usr/lib" "$kept/"
  for program in mysqld mysql mysqlbinlog mysqldump; do
    for path in "$tree/usr/bin/$program" "$tree/usr/sbin/$program"; do
      [[ ! -e $path ]] || mv "$path" "$kept/bin/"
    done
    wrapper_script "$program" >"$kept/$program"
    chmod +x "$kept/$program"
  done
  rm -rf "$root"
  mv -T "$kept" "$root"
  for program in mysqld mysql mysqlbinlog mysqldump; do
    "$root/$program" --version >/dev/null || die "$program in $root does not run" "remove that folder and start again"
  done
  touch "$root/complete"
}

wrapper_script() {
  local options="--no-defaults --character-sets-dir=\"\$root/share/mysql/charsets\""
  [[ $1 != mysqld ]] ||
    options+=" --basedir=\"\$root\" --lc-messages-dir=\"\$root/share/mysql\" --plugin-dir=\"\$root/lib/mysql/plugin\""
  cat <<SCRIPT
#!/bin/sh
# $1 with the libraries it was built for; no option file of this machine or user is read.
root=\$(dirname "\$(readlink -f "\$0")")
lib=\$root/lib/x86_64-linux-gnu
exec "\$lib/ld-linux-x86-64.so.2" --library-path "\$lib" "\$root/bin/$1" $options "\$@"
SCRIPT
}

# programs ENGINE: sets `mysqld`, `client` and `binlog_tool`. None of them reads an option file.
set_programs() {
  if [[ $1 == mariadb ]]; then
    mysqld=mariadbd client=$state/bin/mariadb binlog_tool=$state/bin/mariadb-binlog
    plain_client "$client"
    plain_client "$binlog_tool"
  else
    local root
    root=$(mysql_root "$1")
    mysqld=$root/mysqld client=$root/mysql binlog_tool=$root/mysqlbinlog
  fi
}

plain_client() {
  [[ ! -x $1 ]] || return 0
  mkdir -p "${1%/*}"
  printf '#!/bin/sh\n# No option file of this machine or user is read.\nexec %s --no-defaults "$@"\n' "$(command -v "${1##*/}")" >"$1.new$BASHPID"
  chmod +x "$1.new$BASHPID"
  mv "$1.new$BASHPID" "$1"
}

# --- secrets ---------------------------------------------------------------------------------------------------------------

# One password, one certificate authority and one server certificate for all servers of this checkout.
make_secrets() {
  local secrets=$state/secrets new=$state/secrets.new
  [[ ! -d $secrets ]] || return 0
  rm -rf "$new"
  (umask 077 && mkdir "$new" && openssl rand -hex 16 >"$new/password")
  cat >"$new/openssl.cnf" <<'CONF'
[req]
prompt = no
distinguished_name = name
[name]
O = Trailmesh private test servers
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
CONF
  local request=(openssl req -x509 -config "$new/openssl.cnf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650)
  "${request[@]}" -subj '/CN=Trailmesh test authority' -extensions authority -keyout "$new/ca-key.pem" -out "$new/ca.pem" 2>/dev/null
  "${request[@]}" -subj '/CN=localhost' -extensions server -CA "$new/ca.pem" -CAkey "$new/ca-key.pem" \
    -keyout "$new/server-key.pem" -out "$new/server.pem" 2>/dev/null
  mv -T "$new" "$secrets"
}

# The server runs this file before it takes connections, at every start: so the accounts are right even on a data folder that
# lost its first start to a crash, or whose accounts a test has spoilt. None of it goes into the binary log.
accounts_sql() {
  local engine=$1 password identified=IDENTIFIED
  password=$(<"$state/secrets/password")
  [[ $engine == mariadb ]] || identified='IDENTIFIED WITH caching_sha2_password'
  echo 'SET sql_log_bin = 0;'
  echo "ALTER USER 'root'@'localhost' $identified BY '$password';"
  account_sql root 127.0.0.1 "$identified BY '$password'" 'ALL PRIVILEGES' 'WITH GRANT OPTION'
  account_sql trail % "$identified BY '$password'" 'SELECT, REPLICATION SLAVE, REPLICATION CLIENT'
  [[ $engine != mysql8 ]] ||
    account_sql trail_native % "IDENTIFIED WITH mysql_native_password BY '$password'" 'SELECT, REPLICATION SLAVE, REPLICATION CLIENT'
}

# account_sql USER HOST IDENTIFIED PRIVILEGES [WITH GRANT OPTION]
account_sql() {
  local account="'$1'@'$2'"
  echo "DROP USER IF EXISTS $account;"
  echo "CREATE USER $account $3;"
  echo "GRANT $4 ON *.* TO $account ${5:-};"
}

# --- start and stop --------------------------------------------------------------------------------------------------------

# running_pid HOME: the server that has this home's data folder open, or nothing.
running_pid() { process_with_argument "--datadir=$1/data"; }

# process_with_argument WORD: the id of the process with exactly that word on its command line, or nothing.
process_with_argument() {
  # Option and pattern are one word: grep's own command line must not match.
  local pattern=--regexp=$1 found
  found=$(grep --files-with-matches --no-messages --null-data --line-regexp --fixed-strings "$pattern" /proc/[0-9]*/cmdline || true)
  [[ ! $found =~ ^/proc/([0-9]+)/ ]] || echo "${BASH_REMATCH[1]}"
}

# start_server ENGINE FOLDER [OPTION…]: does nothing if it runs already.
start_server() {
  local engine=$1 folder=$2
  require_engine "$engine"
  install_server "$engine"
  make_state
  with_lock "$state/lock" make_secrets
  mkdir -p "$folder"
  with_lock "$folder/lock" start_server_locked "$@"
}

start_server_locked() {
  local engine=$1 folder=$2 home mysqld client binlog_tool drop
  make_home "$folder"
  home=$(home_of "$folder")
  claim_folder "$engine" "$folder"
  if [[ -n $(running_pid "$home") ]]; then
    (($# == 2)) || die "a server runs in $folder already, so it cannot take new options" "stop it first: ./dev server stop $folder"
    return 0
  fi
  set_programs "$engine"
  set_drop
  # What a killed server leaves behind would only mislead the next one.
  rm -rf "$home"/socket* "$home"/pid "$home"/data.new
  [[ -d $home/data ]] || initialise "$engine" "$home"
  place_credentials "$engine" "$home"
  launch_on_free_port "$engine" "$home" "${@:3}"
}

claim_folder() {
  local engine=$1 mark=$2/engine
  [[ -s $mark ]] || echo "$engine" >"$mark"
  [[ $(<"$mark") == "$engine" ]] || die "$2 holds a $(<"$mark") server, not $engine" "choose another folder"
}

# Into a folder beside it first, so that a data folder which exists is whole.
initialise() {
  local engine=$1 home=$2
  say "${dim}preparing a data folder for $engine${plain}"
  local command=("$mysqld" --initialize-insecure "--datadir=$home/data.new" --innodb-flush-method=nosync)
  [[ $engine != mariadb ]] || command=(mariadb-install-db --no-defaults "--datadir=$home/data.new" --skip-test-db
    --auth-root-authentication-method=normal --innodb-flush-method=nosync)
  "${drop[@]}" mkdir -m 700 "$home/data.new"
  "${drop[@]}" "${command[@]}" >"$home/initialise.log" 2>&1 9>&- || {
    tail -n 20 "$home/initialise.log" >&2
    die "$engine could not make its data folder" "see $home/initialise.log, and that the disk is not full"
  }
  mv -T "$home/data.new" "$home/data"
}

place_credentials() {
  local engine=$1 home=$2 user
  user=$(server_user)
  rm -rf "$home/credentials"
  mkdir -m 700 "$home/credentials"
  cp "$state"/secrets/{ca,server,server-key}.pem "$home/credentials/"
  accounts_sql "$engine" >"$home/credentials/accounts.sql"
  chmod 600 "$home"/credentials/*
  chown -R "$user" "$home/credentials"
}

# The port is drawn at the first start and kept; should somebody else have it meanwhile, another is drawn.
launch_on_free_port() {
  local engine=$1 home=$2 port attempt
  for attempt in 1 2 3 4 5; do
    port=$(cat "$home/port" 2>/dev/null || true)
    if [[ -z $port || $attempt -gt 1 ]] || port_taken "$port"; then
      port=$(free_port)
      echo "$port" >"$home/port"
    fi
    [[ ! -e $home/error.log ]] || mv "$home/error.log" "$home/error.log.old"
    launch "$engine" "$home" "$port" "${@:3}"
    if await_server "$home" "$!"; then return; fi
    grep -qi 'address already in use' "$home/error.log" || break
  done
  tail -n 20 "$home/error.log" >&2 || true
  stop_server_locked "$home"
  die "$engine did not start" "see $home/error.log; ./dev down --erase starts from an empty data folder"
}

port_taken() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the range from which the kernel draws ports for outgoing connections (32768 and up).
free_port() {
  local port
  while port=$((20000 + SRANDOM % 12000)) && port_taken "$port"; do :; done
  echo "$port"
}

launch() {
  local engine=$1 home=$2 port=$3 options
  set_server_options "$engine" "$home" "$port"
  # A session of its own: Ctrl-C at the terminal reaches ./dev, which then stops its servers in order.
  setsid "${drop[@]}" "$mysqld" "${options[@]}" "${@:4}" </dev/null >>"$home/output.log" 2>&1 7>&- 8>&- 9>&- &
}

set_server_options() {
  local engine=$1 home=$2 port=$3
  options=(
    "--datadir=$home/data" "--socket=$home/socket" "--pid-file=$home/pid" "--log-error=$home/error.log"
    "--bind-address=127.0.0.1" "--port=$port" --skip-name-resolve "--init-file=$home/credentials/accounts.sql"
    "--ssl-ca=$home/credentials/ca.pem" "--ssl-cert=$home/credentials/server.pem" "--ssl-key=$home/credentials/server-key.pem"
    # What Trailmesh asks of a source.
    --server-id=1 --log-bin=binlog --binlog-format=ROW --binlog-row-image=FULL --binlog-row-metadata=FULL --binlog-checksum=CRC32
    --binlog-expire-logs-seconds=86400
    # Not the zone of this machine nor UTC, so that a test sees whatever silently depends on the session's zone.
    --default-time-zone=+03:00
    # Small, and quick rather than safe against a power cut; a killed process still loses nothing.
    --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=2 --sync-binlog=0 --max-connections=200
    --performance-schema=OFF --event-scheduler=OFF --local-infile=OFF --max-allowed-packet=64M
  )
  if [[ $engine == mariadb ]]; then
    options=(--no-defaults "${options[@]}" --binlog-annotate-row-events=ON --innodb-log-file-size=48M)
  else
    options+=(--gtid-mode=ON --enforce-gtid-consistency=ON --binlog-rows-query-log-events=ON --mysqlx=OFF
      --secure-file-priv=NULL --innodb-redo-log-capacity=64M)
  fi
}

# Ready means: the root account of accounts.sql gets in over TCP and meets this very data folder.
await_server() {
  local home=$1 pid=$2 answer
  for _ in {1..600}; do
    kill -0 "$pid" 2>/dev/null || return 1
    answer=$(query "$home" 'SELECT @@datadir' 2>/dev/null || true)
    [[ ${answer%/} != "$home/data" ]] || return 0
    sleep 0.1
  done
  return 1
}

# query HOME SQL: as root; needs `client`.
query() {
  MYSQL_PWD=$(<"$state/secrets/password") "$client" --host=127.0.0.1 --port="$(<"$1/port")" --user=root \
    --batch --skip-column-names --execute="$2"
}

stop_server() {
  local folder=$1 home
  home=$(home_of "$folder")
  [[ -d $home ]] || return 0
  with_lock "$folder/lock" stop_server_locked "$home"
}

stop_server_locked() {
  local home=$1 pid
  pid=$(running_pid "$home")
  [[ -n $pid ]] || return 0
  kill -TERM "$pid" 2>/dev/null || true
  for _ in {1..600}; do
    [[ -n $(running_pid "$home") ]] || return 0
    sleep 0.1
  done
  say "the server in $home did not stop within a minute; killing it"
  kill -KILL "$pid" 2>/dev/null || true
}

# erase_server FOLDER: stopped, and its files gone; what else the caller keeps in the folder stays.
erase_server() {
  local folder=$1 home
  stop_server "$folder"
  home=$(home_of "$folder")
  [[ ! -d $home ]] || rm -rf "$home"
  rm -rf "${folder:?}/home" "$folder/engine" "$folder/kept" "$folder/lock"
  rmdir --ignore-fail-on-non-empty "$folder"
}

# --- what a program needs to know ------------------------------------------------------------------------------------------

# server_environment ENGINE FOLDER: lines of NAME='VALUE', for a shell to eval and a program to parse.
server_environment() {
  local engine=$1 home port password mysqld client binlog_tool
  home=$(home_of "$2")
  port=$(<"$home/port")
  password=$(<"$state/secrets/password")
  set_programs "$engine"
  variable "$engine" URL "mysql://root:$password@127.0.0.1:$port/"
  variable "$engine" REPL_URL "mysql://trail@127.0.0.1:$port/"
  variable "$engine" REPL_PASSWORD "$password"
  variable "$engine" SOCKET "$home/socket"
  variable "$engine" CLIENT "$client"
  variable "$engine" BINLOG_TOOL "$binlog_tool"
  variable "$engine" DATADIR "$home/data"
  variable "$engine" CA "$state/secrets/ca.pem"
}

variable() {
  printf 'TRAILMESH_TEST_%s_%s=%s\n' "${1^^}" "$2" "$(quoted "$3")"
}

describe_server() {
  local engine=$1 home mysqld client binlog_tool
  home=$(home_of "$2")
  set_programs "$engine"
  say "${green}$engine${plain} $(query "$home" 'SELECT version()') on 127.0.0.1:$(<"$home/port") (pid $(running_pid "$home")), files in $(shown "$home")"
}
