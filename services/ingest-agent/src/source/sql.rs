//! Every statement this program can send to a source. All of them read, or set variables of their own session; a test keeps it so.

/// The settings that decide whether the log can be followed, one row each; those a server does not know are missing.
pub const SETTINGS: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'server_id', 'server_uuid', 'log_bin', 'binlog_format', \
     'binlog_row_image', 'binlog_row_metadata', 'binlog_row_value_options', 'gtid_mode', 'gtid_binlog_pos', 'gtid_executed')";

/// The present end of the log, before MySQL 8.2 and on MariaDB.
pub const STATUS_OLD: &str = "SHOW MASTER STATUS";

/// The present end of the log, from MySQL 8.2 on.
pub const STATUS: &str = "SHOW BINARY LOG STATUS";

/// MariaDB: the last transaction of each domain before a place; parameters: file and offset.
pub const MARIADB_BEFORE: &str = "SELECT BINLOG_GTID_POS(?, ?)";

/// The logs the server still has, oldest first.
pub const LOGS: &str = "SHOW BINARY LOGS";

/// A table's columns, whether the server computes them, and what else it does with them; parameters: schema and table.
pub const COLUMNS: &str = "SELECT COLUMN_NAME, CASE WHEN GENERATION_EXPRESSION <> '' THEN 1 ELSE 0 END, EXTRA FROM information_schema.COLUMNS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";

/// A table's present columns, in their order; parameters: schema and table.
pub const DEFINITION: &str = "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, COLLATION_NAME, IS_NULLABLE, \
     CASE WHEN GENERATION_EXPRESSION <> '' THEN 1 ELSE 0 END, EXTRA FROM information_schema.COLUMNS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";

/// The columns of a table's primary key and how much of them takes part; parameters: schema and table.
pub const KEY: &str = "SELECT COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX";

/// The numbers of the collations.
pub const COLLATIONS: &str =
    "SELECT COLLATION_NAME, ID FROM information_schema.COLLATIONS WHERE ID IS NOT NULL";

/// MariaDB 10.10 and later: the same, of those that several character sets share.
pub const SHARED_COLLATIONS: &str = "SELECT FULL_COLLATION_NAME, ID FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IS NOT NULL";

/// What a replica tells the server about itself before it asks for the log; parameters: the replica's UUID. Both spellings of the
/// variables are set, the old ones for MariaDB and MySQL before 8.0.26. The heartbeat is in nanoseconds.
pub const REPLICA: &str = "SET @master_heartbeat_period = 10000000000, @source_heartbeat_period = 10000000000, @source_binlog_checksum = 'CRC32', \
     @slave_uuid = ?, @replica_uuid = @slave_uuid, @rpl_semi_sync_slave = 0, @rpl_semi_sync_replica = 0";

/// MariaDB: this replica understands GTID events and holes, so that nothing is rewritten for it.
pub const MARIADB_CAPABILITY: &str = "SET @mariadb_slave_capability = 4";

/// MariaDB: begin after these transactions; parameter: the position, one GTID a domain.
pub const MARIADB_START: &str =
    "SET @slave_connect_state = ?, @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0";
