-- Trailmesh undo script for MySQL: restores rows to what they were before the selected changes.
-- Selected changes: 2. Undone here: 2, in 2 statements. Left as they are: 0.
-- By class: clean 2, disjoint 0, overlap 0, vanished 0, reborn 0, key-taken 0, unknown 0.
-- Mode: safe. No value that a later change wrote is overwritten.
-- Selected between [epoch 0, log 7, offset 100, change 0] and [epoch 0, log 7, offset 200, change 0], history known up to [epoch 0, log 7, offset 200, change 0].
--
-- Apply it in a session of its own, as a user who may change these tables:
--   mysql --default-character-set=utf8mb4 < undo.sql
-- It is one transaction, applied whole or not at all. Each statement must find exactly the row the plan was made
-- for. If one does not, the client stops with error 1231 and a text that begins with UNDO STOPPED, and nothing
-- is applied: a row has changed since the plan was made. Make a new plan, do not edit this script.
-- The same holds if the client is told to go on after errors, or loses its connection.
-- Tables must be of a transactional engine (InnoDB). Triggers fire and foreign keys act as for any statement.
--
-- SHA-256 of everything below line 18, as given by: tail -n +19 undo.sql | sha256sum
--   d97518c11b107066919d165b343df3ebd2c612d2a6d3ed2bd0b260d4e973c61a
-- The script that takes this one back has, below its header, 08aa7849a1f0f80df42497eb53cfabda4803f91df72f3c8a6dc44c23ac9b71df
--
SET NAMES utf8mb4;
SET time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES,STRICT_TRANS_TABLES',
    foreign_key_checks = 1, unique_checks = 1, autocommit = 1,
    @trail_done = 0, @trail_stop = 'UNDO STOPPED: NOTHING WAS APPLIED. The row is not as planned at statement ';
START TRANSACTION;
SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES';
INSERT INTO `shop`.`t` (`id`, `plain`, `Größe
`, `back``tick`, `bytes`, `real`, `bits`, `kind`, `stamp`, `document`, `spot`) SELECT 1, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL FROM DUAL WHERE @trail_done = 0;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 1;
SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES,STRICT_TRANS_TABLES';
UPDATE `shop`.`t` SET `plain` = '*/ DROP TABLE t; -- ', `Größe
` = _utf8mb4 X'6E65770A6C696E65', `back``tick` = _latin1 X'636166E9', `bytes` = X'00FF27', `real` = 1.0000000149011612e-1, `bits` = b'100000101', `kind` = 2, `stamp` = '2025-11-21 06:00:32.123', `document` = CAST('42' AS JSON), `spot` = X'E61000000101000000000000000000F03F0000000000000040' WHERE `id` = 1 AND `plain` IS NULL AND `Größe
` IS NULL AND `back``tick` IS NULL AND `bytes` IS NULL AND `real` IS NULL AND `bits` IS NULL AND `kind` <=> 0 AND `stamp` IS NULL AND `document` IS NULL AND `spot` IS NULL AND @trail_done = 1;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 2;
SET @trail_end = IF(@trail_done = 2, 'COMMIT', 'ROLLBACK');
PREPARE trail_end FROM @trail_end;
EXECUTE trail_end;
DEALLOCATE PREPARE trail_end;
SET sql_mode = IF(@trail_done = 2, @@sql_mode, 'UNDO STOPPED: NOTHING WAS APPLIED');
