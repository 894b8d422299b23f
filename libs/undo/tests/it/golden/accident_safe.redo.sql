-- Trailmesh redo script for MariaDB: takes back what the undo script of the same plan did.
-- Selected changes: 6. Undone by the undo script, and taken back here: 5, in 5 statements. Left as they are: 1.
-- By class: clean 4, disjoint 1, overlap 1, vanished 0, reborn 0, key-taken 0, unknown 0.
-- Mode: safe. No value that a later change wrote is overwritten.
-- Selected between [epoch 0, log 7, offset 100, change 0] and [epoch 0, log 7, offset 800, change 0], history known up to [epoch 0, log 7, offset 800, change 0].
--
-- Apply it in a session of its own, as a user who may change these tables:
--   mariadb --default-character-set=utf8mb4 < redo.sql
-- It is one transaction, applied whole or not at all. Each statement must find exactly the row the plan was made
-- for. If one does not, the client stops with error 1231 and a text that begins with REDO STOPPED, and nothing
-- is applied: a row has changed since the plan was made. Make a new plan, do not edit this script.
-- The same holds if the client is told to go on after errors, or loses its connection.
-- Tables must be of a transactional engine (InnoDB). Triggers fire and foreign keys act as for any statement.
--
-- SHA-256 of everything below line 18, as given by: tail -n +19 redo.sql | sha256sum
--   ae5312570c7e3c3636f2da3aed783d7cbda5a2fd1fd42802fccc3518e9b1297b
-- The script that takes this one back has, below its header, e28e3f5a59711fb1993cbe1e60d3db6ccb8808fccb51831161ded77efeafa6a6
--
SET NAMES utf8mb4;
SET time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES,STRICT_TRANS_TABLES',
    foreign_key_checks = 1, unique_checks = 1, autocommit = 1,
    @trail_done = 0, @trail_stop = 'REDO STOPPED: NOTHING WAS APPLIED. The row is not as planned at statement ';
START TRANSACTION;
UPDATE `shop`.`orders` SET `status` = 'void' WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'paid' AND @trail_done = 0;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 1;
UPDATE `shop`.`orders` SET `status` = 'void' WHERE `id` = 2 AND CAST(`status` AS BINARY) <=> 'paid' AND @trail_done = 1;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 2;
UPDATE `shop`.`orders` SET `status` = 'void' WHERE `id` = 4 AND CAST(`status` AS BINARY) <=> 'paid' AND @trail_done = 2;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 3;
DELETE FROM `shop`.`orders` WHERE `id` = 4 AND CAST(`status` AS BINARY) <=> 'void' AND CAST(`note` AS BINARY) <=> 'by card' AND `total` <=> 40 AND @trail_done = 3;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 4;
INSERT INTO `shop`.`orders` (`id`, `status`, `note`, `total`) SELECT 5, 'test', _utf8mb4 X'6974277320612074657374', 0 FROM DUAL WHERE @trail_done = 4;
SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = 5;
SET @trail_end = IF(@trail_done = 5, 'COMMIT', 'ROLLBACK');
PREPARE trail_end FROM @trail_end;
EXECUTE trail_end;
DEALLOCATE PREPARE trail_end;
SET sql_mode = IF(@trail_done = 5, @@sql_mode, 'REDO STOPPED: NOTHING WAS APPLIED');
