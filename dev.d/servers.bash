# shellcheck shell=bash
# Private database servers: real MariaDB and MySQL for tests and the demo, each in a folder and on a port of its own.
#
# A server has a *folder* (the caller's name for it) and a *home* (where its files are): FOLDER/home, unless the servers' user
# cannot enter the folder or the path is too long for a Unix socket; then FOLDER/home links to a place under /var/tmp.
# Nothing is remembered about a running server but its data folder: the process that has HOME/data among its arguments is the
# server, so no stale pid file can mislead after a crash.
# Sourced by ./dev after programs.bash.

engines=(mariadb mysql8 mysql9)
# What the mesh itself stands on; see stores.bash.
stores=(postgres redis)
# Root may not run a database server, so as root they run as this system user.
server_account=trailmesh-dev
# A Unix socket's path ends at 107 bytes (sun_path in unix(7)); HOME/socket stays below 100.
home_length_limit=90

# --- who runs a server, and where ------------------------------------------------------------------------------------------

require_engine() {
  [[ " ${engines[*]} ${stores[*]} " == *" ${1:-} "* ]] || usage_error "no engine '${1:-}': there are ${engines[*]} ${stores[*]}"
}

is_store() { [[ " ${stores[*]} " == *" $1 "* ]]; }

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
running_pid() { process_with_argument "--datadir=$1/data" "$1/data" "$1/redis.conf"; }

# process_with_argument WORD…: the id of the process with exactly one of those words on its command line, or nothing.
process_with_argument() {
  # Option and pattern are one word: grep's own command line must not match.
  local patterns=("${@/#/--regexp=}") found
  found=$(grep --files-with-matches --no-messages --null-data --line-regexp --fixed-strings "${patterns[@]}" /proc/[0-9]*/cmdline || true)
  [[ ! $found =~ ^/proc/([0-9]+)/ ]] || echo "${BASH_REMATCH[1]}"
}

# start_server ENGINE FOLDER [OPTION…]: does nothing if it runs already.
start_server() {
  local engine=$1 folder=$2
  require_engine "$engine"
  if is_store "$engine"; then install_store "$engine"; else install_server "$engine"; fi
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
  is_store "$engine" || set_programs "$engine"
  set_drop
  # What a killed server leaves behind would only mislead the next one.
  rm -rf "$home"/socket* "$home"/pid "$home"/data.new "$home"/tmp
  # Its own: a starting MariaDB removes the temporary tables that it finds, also those of a server beside it.
  "${drop[@]}" mkdir -m 700 "$home/tmp"
  place_credentials "$engine" "$home"
  if [[ ! -d $home/data ]]; then
    if is_store "$engine"; then initialise_store "$engine" "$home"; else initialise "$engine" "$home"; fi
  fi
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
  TMPDIR=$home/tmp "${drop[@]}" "${command[@]}" >"$home/initialise.log" 2>&1 9>&- || {
    grep -i error "$home/initialise.log" >&2 || tail -n 20 "$home/initialise.log" >&2
    die "$engine could not make its data folder" "see $home/initialise.log, and that the disk is not full"
  }
  mv -T "$home/data.new" "$home/data"
}

place_credentials() {
  local engine=$1 home=$2 user
  user=$(server_user)
  rm -rf "$home/credentials"
  mkdir -m 700 "$home/credentials"
  cp "$state"/secrets/{ca.pem,server.pem,server-key.pem,password} "$home/credentials/"
  is_store "$engine" || accounts_sql "$engine" >"$home/credentials/accounts.sql"
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
    if await_server "$engine" "$home" "$!"; then return; fi
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
  local engine=$1 home=$2 port=$3 options command log=$2/output.log
  if is_store "$engine"; then
    log=$home/error.log
    set_store_command "$engine" "$home" "$port"
  else
    set_server_options "$engine" "$home" "$port"
    command=("$mysqld" "${options[@]}")
  fi
  # A session of its own: Ctrl-C at the terminal reaches ./dev, which then stops its servers in order.
  setsid "${drop[@]}" "${command[@]}" "${@:4}" </dev/null >>"$log" 2>&1 7>&- 8>&- 9>&- &
}

set_server_options() {
  local engine=$1 home=$2 port=$3 plugins
  options=(
    "--datadir=$home/data" "--tmpdir=$home/tmp" "--socket=$home/socket" "--pid-file=$home/pid" "--log-error=$home/error.log"
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
    plugins=$(mariadb_plugins)
    [[ -z $plugins ]] || options+=("--plugin-dir=$plugins")
  else
    options+=(--gtid-mode=ON --enforce-gtid-consistency=ON --binlog-rows-query-log-events=ON --mysqlx=OFF
      --secure-file-priv=NULL --innodb-redo-log-capacity=64M)
  fi
}

# Ready means: the root account of accounts.sql gets in over TCP and meets this very data folder.
await_server() {
  local engine=$1 home=$2 pid=$3 answer
  for _ in {1..600}; do
    kill -0 "$pid" 2>/dev/null || return 1
    if is_store "$engine"; then
      ! store_answers "$engine" "$home" || return 0
      sleep 0.1
      continue
    fi
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
  # PostgreSQL's TERM waits for its clients to leave; INT is its fast shutdown, and an orderly one for the others too.
  kill -INT "$pid" 2>/dev/null || true
  [[ $(cat "/proc/$pid/comm" 2>/dev/null) == postgres ]] || kill -TERM "$pid" 2>/dev/null || true
  for _ in {1..600}; do
    [[ -n $(running_pid "$home") ]] || return 0
    sleep 0.1
  done
  say "the server in $home did not stop within a minute; killing it"
  kill -KILL "$pid" 2>/dev/null || true
}

# abandon_server FOLDER: for a server whose starter is gone, perhaps with the folder.
abandon_server() {
  stop_server_locked "$(readlink --canonicalize-missing "$1/home")"
  [[ ! -d $1 ]] || erase_server "$1"
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
  ! is_store "$engine" || { store_environment "$engine" "$home" && return; }
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
  local engine=$1 home version mysqld client binlog_tool
  home=$(home_of "$2")
  if is_store "$engine"; then
    version=$(store_version "$engine")
  else
    set_programs "$engine"
    version=$(query "$home" 'SELECT version()')
  fi
  say "${green}$engine${plain} $version on 127.0.0.1:$(<"$home/port") (pid $(running_pid "$home")), files in $(shown "$home")"
}
