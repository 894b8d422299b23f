# shellcheck shell=bash
# The demo: Trailmesh's main job on a real server, as a story whose every command a reader could type.
#
# A shop runs; `trail watch` follows it. A script cancels and deletes far more than it should. Meanwhile other people go on
# working, also on some of the rows that the accident touched. The accident is found, its undoing planned, and the script applied
# with the server's own client. Then the proof: a second copy of the shop, which Trailmesh does not see (its session writes no
# binary log), gets every edit but the accident, and each row of each table must be equal. Only rows that the plan named as
# conflicts keep what the accident did to them, since somebody worked on top of it; they are written out in `conflicts_sql`.
# Sourced by ./dev after servers.bash.

# Orders that the accident cancels and that somebody touches afterwards. Every fiftieth order has no items, so it can be deleted.
overlap_orders=(5 10 15)
disjoint_orders=(20 25 30 35)
vanished_order=50
reborn_item='order_id = 40 AND line_no = 1'

listed() {
  local IFS=,
  echo "$*"
}

accident_sql() {
  cat <<'SQL'
START TRANSACTION;
-- meant: unpaid orders of last year. The second condition was forgotten: AND placed_at < '2026-01-01'
UPDATE orders SET status = 'cancelled', discount = 0 WHERE status = 'new';
DELETE FROM order_items WHERE order_id IN (SELECT id FROM orders WHERE status = 'cancelled');
COMMIT;
SQL
}

later_edits_sql() {
  cat <<SQL
UPDATE orders SET status = 'paid', paid_at = '2026-11-21 12:00:00.500' WHERE id IN ($(listed "${overlap_orders[@]}"));
UPDATE orders SET shipping_note = 'Ring twice — "Müller"' WHERE id IN ($(listed "${disjoint_orders[@]}"));
INSERT INTO order_items VALUES (40, 1, 7, 12, 11.58, 'entered again by hand', NULL);
DELETE FROM orders WHERE id = $vanished_order;
SQL
}

# What differs in the end from a shop without the accident: the rows that undo must leave to a person.
conflicts_sql() {
  case $1 in
    before) echo "DELETE FROM order_items WHERE $reborn_item;" ;;
    after) echo "UPDATE orders SET discount = 0 WHERE id IN ($(listed "${overlap_orders[@]}"));" ;;
  esac
}

# --- telling -----------------------------------------------------------------------------------------------------------------

narrate() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# typed COMMAND: shows a command as a reader would type it in the checkout, and runs just that.
typed() {
  printf '%s$ %s%s\n' "$green" "$1" "$plain"
  eval "$1"
}

# --- the stage ---------------------------------------------------------------------------------------------------------------

demo() {
  local engine=mariadb build=release tell=story
  while (($#)); do
    case $1 in
      --engine) engine=${2:-} && shift ;;
      --engine=*) engine=${1#*=} ;;
      --debug) build=debug ;;
      --mesh) tell=mesh_story ;;
      *) usage_error "./dev demo knows --engine, --mesh and --debug, not '$1'" ;;
    esac
    shift
  done
  require_engine "$engine"
  cd "$checkout"
  make_state
  build_needs
  with_lock "$state/install.lock" install_server "$engine"
  build_trail "$build"
  work=.dev/demo-$engine watcher=''
  [[ $tell == story ]] || work=.dev/demo-mesh-$engine
  exec 7>>"$work.lock"
  flock --nonblock 7 || say "waiting for another ./dev demo on $engine in this checkout"
  flock --timeout 600 7 || die "another ./dev demo on $engine does not end" "see who holds $work.lock with: lslocks"
  set_programs "$engine"
  clear_stage
  trap leave_stage EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  "$tell" "$engine" "$build"
}

# Sets `trail`, the program as one would type it in the checkout.
build_trail() {
  local flags=(--release) target
  [[ $1 == release ]] || flags=()
  say "building trail ($1)"
  cargo build --quiet --locked --bin trail "${flags[@]}" 7>&- || die "trail does not build" "see the messages above"
  target=$(cargo metadata --locked --format-version 1 --no-deps | jq -r .target_directory)
  trail=$(shown "$target/$1/trail")
}

# What an earlier run left, also one that was killed: its server and its files. Its watcher and traffic died with it.
clear_stage() {
  local server
  mesh=$checkout/$work/mesh stop_mesh
  for server in "$work"/{server,postgres,redis}; do [[ ! -e $server/engine ]] || erase_server "$checkout/$server"; done
  # Moved away first, so that a reader who still has the old store open cannot put a file where the new one will be.
  rm -rf "$work.old"
  [[ ! -e $work ]] || mv -T "$work" "$work.old"
  rm -rf "$work.old"
  mkdir "$work"
}

leave_stage() {
  local status=$?
  touch "$work/stop-traffic"
  # Not simply everything that runs: a mesh's services are children too, and end only when they are told to.
  [[ -z $watcher ]] || { kill -TERM "$watcher" 2>/dev/null && wait "$watcher"; } || true
  [[ -z ${traffic:-} ]] || wait "$traffic" || true
  if ((status == 0)); then
    end_private_mesh erase_server
    erase_server "$checkout/$work/server"
  else
    end_private_mesh stop_server
    stop_server "$checkout/$work/server"
    say "${red}The demo did not reach its end.${plain} Its files, logs among them, are in $work"
  fi
}

# on_shop [SCHEMA]: the server's client as root, in the shop.
on_shop() { "$client" --host=127.0.0.1 --port="$port" --user=root --default-character-set=utf8mb4 "${@:-shop}"; }

# The same, unseen by whoever reads the binary log.
unseen() { { echo 'SET sql_log_bin = 0;' && cat; } | on_shop "$@"; }

open_shop() {
  echo 'CREATE DATABASE shop CHARACTER SET utf8mb4' | on_shop mysql
  echo 'CREATE DATABASE demo_proof CHARACTER SET utf8mb4;' | unseen mysql
  on_shop shop <dev.d/shop.sql
  unseen demo_proof <dev.d/shop.sql
}

# Customers who order, a warehouse that packs: one line per transaction, the same lines at every run, ended by a file, by the
# death of this script, or by their number.
traffic_sql() {
  local n
  for ((n = 1; n <= 3000; n++)); do
    [[ ! -e $work/stop-traffic ]] && kill -0 $$ 2>/dev/null || return 0
    printf 'START TRANSACTION; %s; %s; %s; COMMIT; %s; %s;\n' \
      "INSERT INTO orders VALUES ($((100000 + n)), $((1 + n % 500)), $((1 + n % 2)), '2026-11-21 10:00:00.000001', NULL, $((n % 90)).10, 0, DEFAULT, 1, NULL)" \
      "INSERT INTO order_items VALUES ($((100000 + n)), 1, $((1 + n % 100)), 2, 3.36, NULL, NULL), ($((100000 + n)), 2, $((1 + n % 50)), 1, 4.73, 'Grüße', NULL)" \
      "UPDATE products SET stock = stock - 3 WHERE id = $((1 + n % 100))" \
      "UPDATE orders SET parcels = parcels % 9 + 1 WHERE id = $((1 + n * 7 % 2000))" \
      "UPDATE customers SET preferences = JSON_SET(preferences, '\$.visits', $n) WHERE id = $((1 + n * 3 % 500))"
    sleep 0.02
  done
}

start_traffic() {
  traffic_sql 7>&- | tee "$work/traffic.sql" 7>&- | on_shop shop >"$work/traffic.log" 2>&1 7>&- &
  traffic=$!
}

stop_traffic() {
  touch "$work/stop-traffic"
  wait "$traffic" || die "the shop's traffic broke off" "see $work/traffic.log"
}

# await WHAT COMMAND…: until the command succeeds, for at most half a minute.
await() {
  local what=$1
  shift
  for _ in {1..150}; do
    if "$@"; then return; fi
    sleep 0.2
  done
  die "waited 30 s in vain for: $what" "see $work/watch.log"
}

watch_follows() {
  kill -0 "$watcher" 2>/dev/null || { cat "$work/watch.log" >&2 && die "trail watch ended" "see the lines above"; }
  grep -q following "$work/watch.log"
}

trail_has_last_edit() { "$trail" changes shop.orders --op delete --limit 1 --format ndjson 2>/dev/null | grep -q .; }

# --- the story ---------------------------------------------------------------------------------------------------------------

story() {
  local engine=$1 started=$SECONDS port traffic before transaction redo="--redo $work/redo.sql"
  open_act "$engine"
  accident_act
  finding_act
  undoing_act
  proof_act
  narrate "And the trail itself: what it covers, and that its files are whole."
  typed "$trail coverage"
  typed "$trail verify"
  narrate "Done in $((SECONDS - started)) s. The store stays in $TRAIL_STORE: go on asking it, for example"
  echo "  $trail history shop.orders 40 --store $TRAIL_STORE"
}

open_act() {
  narrate "A shop on a private $1 server. Trailmesh follows its binary log as a replica does, with an account that may only read."
  start_server "$1" "$checkout/$work/server" --transaction-isolation=READ-COMMITTED 7>&-
  describe_server "$1" "$checkout/$work/server"
  port=$(<"$work/server/home/port")
  # The reader's own settings of trail have no say here.
  unset "${!TRAIL_@}"
  typed "export TRAIL_STORE=$work/store"
  typed "export TRAIL_SOURCE_PASSWORD=\$(cat .dev/secrets/password) MYSQL_PWD=\$(cat .dev/secrets/password)"
  open_shop
  compare_shops >/dev/null || die "the two copies of the shop differ before anything happened" "see $work/proof"
  start_watch
  start_traffic
  sleep 2
}

start_watch() {
  local watch="$trail watch mysql://trail@127.0.0.1:$port/ --tls-mode verify-identity --tls-ca .dev/secrets/ca.pem"
  printf '%s$ %s &%s\n' "$green" "$watch" "$plain"
  # Should this script be killed, the kernel ends the watcher.
  eval "exec setpriv --pdeathsig TERM $watch" >"$work/watch.log" 2>&1 7>&- &
  watcher=$!
  await "trail watch to follow the server" watch_follows
  cat "$work/watch.log"
}

accident_act() {
  narrate "Customers order, the warehouse packs. Then somebody runs a clean-up script that forgot half of its condition:"
  before=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  accident_sql | tee "$work/accident.sql"
  on_shop shop <"$work/accident.sql"
  narrate "Nobody notices at once. Others go on working, also on what the script touched:"
  later_edits_sql | tee "$work/later-edits.sql"
  on_shop shop <"$work/later-edits.sql"
  await "the trail to reach the last edit" trail_has_last_edit
}

finding_act() {
  narrate "Support calls: orders are gone. What happened, and where?"
  typed "$trail tables"
  typed "$trail changes shop.orders --since $before --column status --limit 5"
  narrate "Which transaction updated most rows since then?"
  typed "$trail changes shop.orders --since $before --op update --format ndjson 2>/dev/null | jq -r .gtid | sort | uniq -c | sort -rn | head -n 3"
  transaction=$("$trail" changes shop.orders --since "$before" --op update --format ndjson 2>/dev/null |
    jq -r .gtid | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
  typed "$trail txn $transaction 2>/dev/null | head -n 12"
}

undoing_act() {
  narrate "The plan to undo it: what can be put back, and which rows somebody has changed since, with both values."
  typed "$trail undo --gtid $transaction 2>&1 >/dev/null | tee $work/plan.txt"
  explaining_act
  conflicts_are_listed
  narrate "The same plan as a script, with its way back. Trailmesh writes it; a person reads and runs it."
  typed "$trail undo --gtid $transaction -o $work/undo.sql${redo:+ $redo} 2>/dev/null"
  typed "head -n 25 $work/undo.sql"
  typed "$(shown "$client") --host=127.0.0.1 --port=$port --user=root shop <$work/undo.sql"
  stop_traffic
}

explaining_act() {
  narrate "Each row's class and why, for who wants to know; here are rows that others changed in other columns."
  typed "$trail undo --gtid $transaction --explain 2>$work/plan.txt >/dev/null"
  typed "grep 'disjoint,' $work/plan.txt | tail -n 4"
}

# The rows that others worked on are left out of the script, each for the right reason, and no other row is.
conflicts_are_listed() {
  local expected
  expected=$(
    printf 'update shop.orders {"id":%d}  overlap\n' "${overlap_orders[@]}"
    printf 'update shop.orders {"id":%d}  vanished\n' "$vanished_order"
    printf 'delete shop.order_items {"order_id":40,"line_no":1}  reborn\n'
  )
  sed -n 's/^ *\(.*\), left out:.*/\1/p' "$work/plan.txt" | sort >"$work/left-out.txt"
  diff <(sort <<<"$expected") "$work/left-out.txt" || die "the plan leaves out other rows than those with conflicts (< expected, > left out)" "see $work/plan.txt"
}

# --- the proof ---------------------------------------------------------------------------------------------------------------

proof_act() {
  narrate "The proof: a second shop that had every edit but the accident. Each row of each table must be equal."
  { conflicts_sql before && cat "$work/traffic.sql" "$work/later-edits.sql" && conflicts_sql after; } | unseen demo_proof
  compare_shops || die "the undone shop is not the shop without the accident" "compare the files in $work/proof"
}

# Dumps each table of both schemas in the order of its key, every value quoted, and compares.
compare_shops() {
  local table rows=0 wrong=0
  mkdir -p "$work/proof"
  for table in customers products orders order_items; do
    dump_table shop "$table" >"$work/proof/$table.shop"
    dump_table demo_proof "$table" >"$work/proof/$table.expected"
    diff --unified=0 "$work/proof/$table.expected" "$work/proof/$table.shop" >"$work/proof/$table.diff" || {
      wrong=1
      printf '%s✗ %s%s\n' "$red" "$table" "$plain"
      head -n 12 "$work/proof/$table.diff"
    }
    rows=$((rows + $(wc -l <"$work/proof/$table.expected")))
  done
  ((wrong == 0)) || return 1
  printf '%s✓ %d rows of 4 tables compared, every column of every row is equal%s\n' "$green" "$rows" "$plain"
}

dump_table() {
  local columns key
  columns=$(catalogue "SELECT GROUP_CONCAT(IF(data_type = 'binary', CONCAT('HEX(', column_name, ')'), CONCAT('QUOTE(CAST(', column_name, ' AS CHAR))'))
    ORDER BY ordinal_position) FROM information_schema.columns WHERE table_schema = '$1' AND table_name = '$2'")
  key=$(catalogue "SELECT GROUP_CONCAT(column_name ORDER BY ordinal_position) FROM information_schema.key_column_usage
    WHERE table_schema = '$1' AND table_name = '$2' AND constraint_name = 'PRIMARY'")
  on_shop "$1" --batch --skip-column-names --execute="SELECT $columns FROM $2 ORDER BY $key"
}

catalogue() { on_shop information_schema --batch --skip-column-names --execute="$1"; }
