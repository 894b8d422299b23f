-- Trailmesh undo script for MySQL: restores rows to what they were before the selected changes.
-- Selected changes: 6. Undone here: 6, in 6 statements. Left as they are: 0.
-- By class: clean 4, disjoint 1, overlap 1, vanished 0, reborn 0, key-taken 0, unknown 0.
-- Mode: force. Values that later changes wrote are overwritten where the plan says overlap, newer ones are not.
-- Selected between [epoch 0, log 7, offset 100, change 0] and [epoch 0, log 7, offset 800, change 0], history known up to [epoch 0, log 7, offset 800, change 0].
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
--   5cb465ab23315820dce50d6953f03627a1967c53f64f93eeec8435394af99c59
-- The script that takes this one back has, below its header, 42eb6f8a5d13574fa1b9e32a31c35c8d63589408bc58cf88eae80725aae32cae
--
SET NAMES utf8mb4;
SET time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES,STRICT_TRANS_TABLES',
    foreign_key_checks = 1, unique_checks = 1, autocommit = 1,
    @trail_done = 0, @trail_stop = 'UNDO STOPPED: NOTHING WAS APPLIED. The row is not as planned at statement ';
START TRANSACTION;
DELETE FROM `shop`.`orders` WHERE `id` = 5 AND CAST(`status` AS BINARY) <=> 'test' AND CAST(`note` AS BINARY) <=> X'6974277320612074657374' AND `total` <=> 0 AND @trail_done = 0;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 1;
INSERT INTO `shop`.`orders` (`id`, `status`, `note`, `total`) SELECT 4, 'void', 'by card', 40 FROM DUAL WHERE @trail_done = 1;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 2;
UPDATE `shop`.`orders` SET `status` = 'paid' WHERE `id` = 4 AND CAST(`status` AS BINARY) <=> 'void' AND @trail_done = 2;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 3;
UPDATE `shop`.`orders` SET `status` = 'paid' WHERE `id` = 3 AND CAST(`status` AS BINARY) <=> 'sent' AND @trail_done = 3;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 4;
UPDATE `shop`.`orders` SET `status` = 'paid' WHERE `id` = 2 AND CAST(`status` AS BINARY) <=> 'void' AND @trail_done = 4;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 5;
UPDATE `shop`.`orders` SET `status` = 'paid' WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'void' AND @trail_done = 5;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 6;
SET @trail_end = IF(@trail_done = 6, 'COMMIT', 'ROLLBACK');
PREPARE trail_end FROM @trail_end;
EXECUTE trail_end;
DEALLOCATE PREPARE trail_end;
SET sql_mode = IF(@trail_done = 6, @@sql_mode, 'UNDO STOPPED: NOTHING WAS APPLIED');
