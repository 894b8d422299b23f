//! Examples and explanations below each command's flags, written for somebody whose data is wrong right now.
//!
//! Paragraphs are one line each, so that they are wrapped to the terminal; lines with an example stay below 80 columns.

pub(super) const TRAIL: &str = "\
In an incident:
  trail changes shop.orders --since 30m     what happened, newest first
  trail txn 0-1-8841                        all that one transaction did
  trail history shop.orders 42              everything that happened to one row
  trail undo --txn 0-1-8841 -o undo.sql     the SQL that takes it back
  mysql shop < undo.sql                     you apply it; trail never writes

Before one:
  export TRAIL_SOURCE_PASSWORD_FILE=/etc/trail/password
  trail watch mysql://trail@db1:3306/

Through a mesh, from anywhere:
  trail login --mesh https://mesh.example.com
  trail changes shop.orders --since 30m --server orders-primary

Every flag can also be set as TRAIL_<FLAG>, such as TRAIL_STORE or TRAIL_FORMAT; a flag wins over the variable.

Exit status: 0 done · 1 failed · 2 wrong usage · 3 answered, but something is missing from what was asked · \
64 configuration or credentials must change first · 69 the server cannot be reached";

pub(super) const WATCH: &str = "\
The password comes from TRAIL_SOURCE_PASSWORD, or from the file that TRAIL_SOURCE_PASSWORD_FILE names; never from the \
command line, where other users can read it.

The user needs these rights and none that writes (SELECT only tells which columns the server computes; no row is read):
  CREATE USER trail@'10.%' IDENTIFIED BY '…';
  GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO trail@'10.%';

The server needs log_bin=ON, binlog_format=ROW, binlog_row_image=FULL and binlog_row_metadata=FULL.

TLS modes: disabled never encrypts; preferred encrypts if the server can; required encrypts or fails; verify-ca also \
checks who issued the server's certificate; verify-identity also checks that it names the host. Only the last one \
protects against somebody in the middle.

A store remembers where it stands. Started again, watch goes on there, and a --start that says otherwise is refused.

Examples:
  trail watch mysql://trail@db1.example.com/ --tls-mode verify-identity
  trail watch 'mariadb://trail@localhost/?socket=/run/mysqld/mysqld.sock'
  trail watch mysql://trail@db1/ --start oldest --until-caught-up";

pub(super) const AGENT_ENROL: &str = "\
The private key is made here and never leaves this machine. The token enrols once and not for long; it is never given on \
the command line, where other users can read it.

Without --pin the mesh is known by its certificate, this once; afterwards only by the keys it named, or those given with --pin.

Examples:
  trail agent enrol --mesh https://mesh.example.com --token-file ./token
  printf %s \"$TOKEN\" | trail agent enrol --mesh https://mesh.example.com --token-file -

A certificate holds for 24 hours and is renewed while the agent runs. One that was off, or without the mesh, for longer gets a new token in \
the mesh; it is stopped, comes back with --again, as who it was and with what it has stored, and is started.

Exit status: 0 done · 1 failed · 64 wrong usage · 65 refused by the mesh";

pub(super) const AGENT_RUN: &str = "\
The agent dials out and listens nowhere. What it follows, with which account and whom it trusts it asks the mesh's vault over its own \
mutual TLS; what it may tell is signed for each call. Its folder is the only place it writes to, and holds no password.

With --mode byos the mesh never has the passwords. They are in this agent's environment, for a server named shop-db:
  TRAIL_SERVER_SHOP_DB_PASSWORD, or TRAIL_SERVER_SHOP_DB_PASSWORD_FILE with the path of a file that holds it
  TRAIL_SERVER_SHOP_DB_URL   mysql://user@host:3306/, if it is not where the mesh says, or the account is another
  TRAIL_SERVER_SHOP_DB_TLS   verify-identity, verify-ca, required or disabled, if it is not what the mesh says
A password goes only where it went first, and over no weaker TLS; if the mesh says otherwise, the server is not followed until URL or TLS say so too.
In both modes:
  TRAIL_SERVER_SHOP_DB_CA    authorities that vouch for the server, PEM, where its TLS is verified

What is followed is followed on while the mesh cannot be reached, after the certificate has ended, and while the plan has no room for the agent; \
trail agent status says what to do.

Exit status: 0 ended as told · 1 failed; starting again may help · 64 wrong usage · 65 refused by the mesh: revoked, for ten minutes if anything \
is followed, or a certificate that has ended while nothing is. Give a supervisor RestartPreventExitStatus=64 65.";

pub(super) const INDEX: &str = "\
Files are read in the order of their numbers, whatever the order they are given in. Reading a file again, or one that \
has grown since, adds only what is new.

Logs written without binlog_row_metadata=FULL do not name their columns. --schema-from takes the present definitions of \
such tables from the live server that wrote the files; nothing but information_schema and the list of its logs is read, \
and the user, password and TLS rules are those of watch. Rows that precede a statement about their table, or whose log \
disagrees with the definition, are refused; that logs which were not given might hold such a statement is a warning.

Examples:
  trail index /var/lib/mysql/binlog.000041 /var/lib/mysql/binlog.000042
  trail index --dir ./binlogs-from-backup --store ./incident
  trail index binlog.00004* --schema-from mysql://trail@db1/ --store ./incident";

pub(super) const CHANGES: &str = "\
What the answer covers is told on standard error; if something is missing from it the exit status is 3. The table shows \
statements such as TRUNCATE between the changes; the other forms hold row changes only.

Examples:
  trail changes shop.orders --since 30m --op delete
  trail changes shop.orders --column status --since '2026-11-21 10:00'
  trail changes shop.orders --key 42 --key 43
  trail changes --follow --format ndjson | jq -c '[.table, .op, .key]'
  trail changes shop.orders --format csv > orders.csv";

pub(super) const HISTORY: &str = "\
A row whose key was changed is found by its old key and by its new one.

Examples:
  trail history shop.orders 42
  trail history shop.order_lines order_id=42,line=3
  trail history shop.customers '{\"email\":\"a,b@example.com\"}' --column name";

pub(super) const TXN: &str = "\
Examples:
  trail txn 3e11fa47-71ca-11e1-9e33-c80aa9429562:23
  trail txn 0-1-8841 shop.orders --limit all
  trail txn binlog.000003:4711 --format json";

pub(super) const UNDO: &str = "\
The script goes to standard output or -o, the summary to standard error.

Rows that somebody changed again afterwards are looked up in the store: a row whose later changes touched other columns \
is undone around them; one whose same columns changed again, or that has gone, is left out and listed with both values. \
Each statement checks that it finds the row as expected, and the script aborts without effect if one does not: it can be \
read, discussed and applied later.

At least one of SCHEMA.TABLE, --txn, --gtid, --since, --until, --key must be given. If no change is chosen, no file is \
written and the exit status is 1.

Examples:
  trail undo --txn 0-1-8841 -o undo.sql --redo redo.sql
  trail undo shop.orders --since '2026-11-21 10:02' --op delete -o undo.sql
  trail undo shop.orders --key 42 --since 1h --explain
  mysql --host db1 shop < undo.sql";

pub(super) const VERIFY: &str = "\
Exit status 0 if every byte is what was once written, 1 and the name of the damaged file if not.";

pub(super) const COMPLETIONS: &str = "\
Examples:
  trail completions bash > ~/.local/share/bash-completion/completions/trail
  trail completions zsh > \"${fpath[1]}/_trail\"
  trail completions fish > ~/.config/fish/completions/trail.fish";

pub(super) const LOGIN: &str = "\
The password is asked for without showing it; where standard input is no terminal, it is its first line. The session is \
kept in trail/profiles/NAME.json in $XDG_CONFIG_HOME or ~/.config, readable by you only, and renews itself for 30 days.

Programs need no session: with TRAIL_API_KEY set to an API key and TRAIL_MESH to the mesh's address, every command with \
--server works.

Examples:
  trail login --mesh https://mesh.example.com --email ada@example.com
  trail login --mesh https://localhost:8443 --ca ca.pem --profile local
  trail changes shop.orders --server orders-primary --since 30m
  TRAIL_SERVER=orders-primary trail status";

pub(super) const LOGOUT: &str = "\
The session is ended in the mesh and its profile is deleted.";

pub(super) const SERVERS: &str = "\
Examples:
  trail servers
  trail servers --format json | jq -r '.servers[].name'";

pub(super) const UPLOAD: &str = "\
A file is sent as it is, sealed there under a key of its own, read once, and then answers changes, history, txn, undo and the others as a server \
does. What was sent is never sent again: when the connection breaks, or the same command is typed once more, it goes on where it stopped.

The file must not be written any more: FLUSH BINARY LOGS makes the server begin another one.

Examples:
  trail upload /var/lib/mysql/binlog.000042 --name accident
  trail upload binlog.000041 binlog.000042 --name monday --server orders-primary
  trail changes shop.orders --server upl_…";

pub(super) const UPLOADS: &str = "\
Examples:
  trail uploads
  trail uploads delete accident upl_01jd…
  trail uploads --format json | jq -r '.uploads[] | select(.state == \"open\").name'";

pub(super) const WHOAMI: &str = "\
Examples:
  trail whoami
  trail whoami --profile local --format json";
