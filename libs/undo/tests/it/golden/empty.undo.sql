-- Trailmesh undo script for MariaDB: restores rows to what they were before the selected changes.
-- Selected changes: 0. Undone here: 0, in 0 statements. Left as they are: 0.
-- By class: clean 0, disjoint 0, overlap 0, vanished 0, reborn 0, key-taken 0, unknown 0.
-- Mode: safe. No value that a later change wrote is overwritten.
-- Selected between [nowhere] and [nowhere], history known up to [nowhere].
--
-- Apply it in a session of its own, as a user who may change these tables:
--   mariadb --default-character-set=utf8mb4 < undo.sql
-- It is one transaction, applied whole or not at all. Each statement must find exactly the row the plan was made
-- for. If one does not, the client stops with error 1231 and a text that begins with UNDO STOPPED, and nothing
-- is applied: a row has changed since the plan was made. Make a new plan, do not edit this script.
-- The same holds if the client is told to go on after errors, or loses its connection.
-- Tables must be of a transactional engine (InnoDB). Triggers fire and foreign keys act as for any statement.
--
-- SHA-256 of everything below line 18, as given by: tail -n +19 undo.sql | sha256sum
--   a8fd1cacfbfb81d96340146818562e7fbb9c6c56601485248ea730d4443bc20a
-- The script that takes this one back has, below its header, 18fdbc4b247dadf999600242c8eeb31801ea1208754f5845c72369e3510d9e86
--
SET NAMES utf8mb4;
SET time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES,STRICT_TRANS_TABLES',
    foreign_key_checks = 1, unique_checks = 1, autocommit = 1,
    @trail_done = 0, @trail_stop = 'UNDO STOPPED: NOTHING WAS APPLIED. The row is not as planned at statement ';
START TRANSACTION;
SET @trail_end = IF(@trail_done = 0, 'COMMIT', 'ROLLBACK');
PREPARE trail_end FROM @trail_end;
EXECUTE trail_end;
DEALLOCATE PREPARE trail_end;
SET sql_mode = IF(@trail_done = 0, @@sql_mode, 'UNDO STOPPED: NOTHING WAS APPLIED');
