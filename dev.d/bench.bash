# shellcheck shell=bash
# The benchmark: how fast a binary log becomes a searchable store, beside the server's own tool printing the same file and beside
# merely reading it, in one run on one machine. Numbers are of this machine and this moment; ratios are what to compare.
# Sourced by ./dev after servers.bash.

# Rows of the narrow table; the wide, sysbench-like one has three tenths of them.
bench_rows=1000000
bench_keys=200

bench_sql() {
  cat <<SQL
SET autocommit = 0;
CREATE DATABASE bench;
USE bench;
CREATE TABLE narrow (id INT PRIMARY KEY, a INT NOT NULL, b BIGINT NOT NULL);
CREATE TABLE wide (id INT PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL, KEY (k));
FLUSH BINARY LOGS;
INSERT INTO narrow SELECT seq, seq * 7 % 1000, seq * seq FROM seq_1_to_$1;
COMMIT;
UPDATE narrow SET a = a + 1;
COMMIT;
FLUSH BINARY LOGS;
INSERT INTO wide SELECT seq, seq * 7 % 1000, LEFT(CONCAT(SHA2(seq, 256), SHA2(seq + 1, 224)), 119), SHA2(seq, 224) FROM seq_1_to_$(($1 * 3 / 10));
COMMIT;
UPDATE wide SET k = k + 1;
COMMIT;
FLUSH BINARY LOGS;
SQL
}

bench() {
  if [[ ${1:-} == gateway ]]; then
    bench_gateway "${@:2}"
    return
  fi
  if [[ ${1:-} == tenants ]]; then
    bench_tenants "${@:2}"
    return
  fi
  if [[ ${1:-} == mesh ]]; then
    bench_mesh "${@:2}"
    return
  fi
  (($# == 0)) || usage_error "./dev bench knows 'gateway', 'tenants' and 'mesh', not '$1'"
  cd "$checkout"
  make_state
  build_needs
  require time time
  install_server mariadb
  build_trail release
  local place=$state/bench folder=$state/bench/server
  mkdir -p "$folder"
  with_lock "$state/bench.lock" bench_alone
}

bench_alone() {
  trap 'erase_server "$folder"; rm -rf "$place"' EXIT
  start_server mariadb "$folder"
  local server
  server=$(server_environment mariadb "$(readlink -f "$folder")")
  eval "$server"
  say "writing a log of $((bench_rows * 2)) narrow and $((bench_rows * 6 / 10)) wide row changes"
  bench_sql "$bench_rows" | MYSQL_PWD=$(<"$state/secrets/password") "$TRAILMESH_TEST_MARIADB_CLIENT" -uroot -S "$TRAILMESH_TEST_MARIADB_SOCKET"
  stop_server "$folder"
  printf '\n%s%-10s %-34s %9s %11s %9s %8s%s\n' "$bold" log what seconds 'changes/s' MB/s 'RSS MB' "$plain"
  bench_log narrow "$TRAILMESH_TEST_MARIADB_DATADIR/binlog.000002" $((bench_rows * 2))
  bench_log wide "$TRAILMESH_TEST_MARIADB_DATADIR/binlog.000003" $((bench_rows * 6 / 10))
  bench_questions
}

# timed COMMAND…: seconds and peak memory in kilobytes of a command whose output nobody wants.
timed() { command time --format '%e %M' --output "$place/time" "$@" >/dev/null 2>"$place/err" || die "$* failed" "$(<"$place/err")"; }

bench_row() {
  local seconds memory bytes
  read -r seconds memory <"$place/time"
  bytes=$(stat --format %s "$3")
  awk -v l="$1" -v w="$2" -v s="$seconds" -v n="$4" -v b="$bytes" -v m="$memory" \
    'BEGIN { if (s < 0.01) s = 0.01; printf "%-10s %-34s %9.2f %11d %9.0f %8.0f\n", l, w, s, n / s, b / s / 1e6, m / 1e3 }'
}

bench_log() {
  local name=$1 log=$2 changes=$3 store=$place/store-$1
  cat "$log" >/dev/null
  timed cat "$log"
  bench_row "$name" 'reading the file (limit)' "$log" "$changes"
  timed "$TRAILMESH_TEST_MARIADB_BINLOG_TOOL" --verbose "$log"
  bench_row "$name" 'mariadb-binlog -v >/dev/null' "$log" "$changes"
  timed "$trail" index "$log" --store "$store"
  bench_row "$name" 'trail index, durable, searchable' "$log" "$changes"
  awk -v l="$name" -v s="$(du --bytes --summarize "$store" | cut -f1)" -v b="$(stat --format %s "$log")" \
    'BEGIN { printf "%-10s store: %.1f MB, %.2f of the log\n", l, s / 1e6, s / b }'
}

# Whole commands, process start and opening the store included.
bench_questions() {
  local nth begin keys=$place/keys
  for ((nth = 0; nth < bench_keys; nth++)); do
    begin=${EPOCHREALTIME/[.,]/}
    "$trail" history bench.wide $((nth * 1489 % (bench_rows * 3 / 10) + 1)) --store "$place/store-wide" --format ndjson >/dev/null 2>&1
    echo $((${EPOCHREALTIME/[.,]/} - begin))
  done | sort -n >"$keys"
  printf '\n%-45s p50 %s ms, p99 %s ms\n' "trail history of one key, $bench_keys times:" \
    "$(bench_percentile 50)" "$(bench_percentile 99)"
  timed "$trail" changes bench.wide --limit 1000 --format ndjson --store "$place/store-wide"
  printf '%-45s %s s\n' 'trail changes --limit 1000:' "$(cut -d' ' -f1 "$place/time")"
  timed "$trail" undo bench.narrow --op update --store "$place/store-narrow" --output "$place/undo.sql"
  awk -v n="$bench_rows" '{ printf "%-45s %s s, %.0f MB\n", "trail undo of " n " updates:", $1, $2 / 1e3 }' "$place/time"
}

bench_percentile() { awk -v p="$1" '{ all[NR] = $1 } END { printf "%.1f", all[int((NR - 1) * p / 100) + 1] / 1000 }' "$keys"; }
