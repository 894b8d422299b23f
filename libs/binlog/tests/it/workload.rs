//! A mixed workload: every ordinary column type at its limits, and transactions of every shape.

use testkit::Engine;

/// Statements that fill `schema`; deterministic, so that every engine logs the same rows.
pub(crate) fn sql(engine: Engine, schema: &str) -> String {
    let mut sql = format!("USE `{schema}`; SET time_zone='+05:30'; SET NAMES utf8mb4; SET sql_mode='';\n");
    sql.push_str(INTEGERS);
    sql.push_str(EXACT_AND_REAL);
    sql.push_str(TIMES);
    sql.push_str(TEXTS);
    sql.push_str(SETS);
    sql.push_str(if engine.is_mariadb() {
        JSON_TEXT
    } else {
        JSON_BINARY
    });
    sql.push_str(if engine == Engine::Mysql9 { VECTOR } else { "" });
    sql.push_str(SHAPES);
    for n in 0..300 {
        let text = "x".repeat(n * 37 % 700);
        sql.push_str(&format!(
            "INSERT INTO many (id, v, t) VALUES ({n}, {}, '{text}');\n",
            n * n
        ));
    }
    sql.push_str("UPDATE many SET v = v + 1 WHERE id % 3 = 0; DELETE FROM many WHERE id % 7 = 0; UPDATE many SET id = id + 1000 WHERE id % 11 = 0;\nCREATE TABLE copy AS SELECT id, v FROM many;\n");
    sql
}

const INTEGERS: &str = "
CREATE TABLE ints (id INT PRIMARY KEY, y YEAR, a TINYINT, b TINYINT UNSIGNED, c SMALLINT, d SMALLINT UNSIGNED, e MEDIUMINT, f MEDIUMINT UNSIGNED,
  g INT, h INT UNSIGNED, i BIGINT, j BIGINT UNSIGNED, k BIT(1), l BIT(13), m BIT(64));
INSERT INTO ints VALUES
  (1, 1901, -128, 0, -32768, 0, -8388608, 0, -2147483648, 0, -9223372036854775808, 0, b'0', b'0', b'0'),
  (2, 2155, 127, 255, 32767, 65535, 8388607, 16777215, 2147483647, 4294967295, 9223372036854775807, 18446744073709551615, b'1',
    b'1111111111111', 18446744073709551615),
  (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (4, 0, -1, 128, -1, 32768, -1, 8388608, -1, 2147483648, -1, 9223372036854775808, b'1', b'1000000000001', 9223372036854775808);
UPDATE ints SET a = a + 1, j = j - 1 WHERE id IN (2, 4) AND a < 127;
";

const EXACT_AND_REAL: &str = "
CREATE TABLE reals (id INT PRIMARY KEY, a DECIMAL(1,0), b DECIMAL(65,30), c DECIMAL(10,2), d DECIMAL(9,9), e DECIMAL(18,9), f FLOAT, g DOUBLE, h DECIMAL(5,5) UNSIGNED);
INSERT INTO reals VALUES
  (1, 9, 99999999999999999999999999999999999.999999999999999999999999999999, 12345678.90, 0.999999999, 123456789.987654321, 1.5, 3.141592653589793, 0.99999),
  (2, -9, -99999999999999999999999999999999999.999999999999999999999999999999, -0.01, -0.000000001, -1.000000001, -1e30, -1.7976931348623157e308, 0),
  (3, 0, 0, 0, 0, 0, 0, 5e-324, 0.00001),
  (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (5, 1, 1e-30, 1000000, 0.1, 100000000, 16777216, 0.1, 0.5);
";

const TIMES: &str = "
CREATE TABLE times (id INT PRIMARY KEY, a DATE, b TIME, c TIME(1), d TIME(3), e TIME(6), f DATETIME, g DATETIME(2), h DATETIME(6),
  i TIMESTAMP NULL, j TIMESTAMP(4) NULL, k TIMESTAMP(6) NULL);
INSERT INTO times VALUES
  (1, '2026-11-21', '10:11:12', '10:11:12.5', '10:11:12.345', '10:11:12.345678', '2026-11-21 10:11:12', '2026-11-21 10:11:12.99', '2026-11-21 10:11:12.000001',
    '2026-11-21 10:11:12', '2026-11-21 10:11:12.1234', '2026-11-21 10:11:12.123456'),
  (2, '0000-00-00', '-838:59:59', '-00:00:00.1', '-00:00:01.001', '-838:59:58.999999', '0000-00-00 00:00:00', '1000-01-01 00:00:00.01', '9999-12-31 23:59:59.999999',
    '0000-00-00 00:00:00', '1970-01-01 05:30:01.0001', '2038-01-19 08:44:07.999999'),
  (3, '2024-00-10', '838:59:59', '00:00:00', '00:00:00.000', '-00:00:00.000001', '2024-02-29 00:00:00', '2000-12-31 23:59:59.50', '1000-01-01 00:00:00', NULL, NULL, NULL),
  (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
";

const TEXTS: &str = "
CREATE TABLE texts (id INT PRIMARY KEY, a CHAR(10) CHARACTER SET latin1, b CHAR(200) CHARACTER SET utf8mb4, c VARCHAR(50) CHARACTER SET utf8mb4, d VARCHAR(400) CHARACTER SET utf8mb4,
  e TINYTEXT CHARACTER SET cp1251, f TEXT CHARACTER SET utf8mb4, g MEDIUMTEXT CHARACTER SET utf16, h LONGTEXT CHARACTER SET utf8mb4,
  i BINARY(6), j VARBINARY(300), k TINYBLOB, l BLOB, m MEDIUMBLOB, n LONGBLOB, o VARCHAR(20) CHARACTER SET gbk);
INSERT INTO texts VALUES
  (1, 'caf\u{e9}', 'Z\u{fc}rich \u{1f600}', 'it''s', 'a\\\\b\nnew\tline', 'Привет', 'text', 'wide \u{1f600}', REPEAT('long ', 100), 'ab', X'00FF00', X'00', X'DEADBEEF', REPEAT(X'41', 300), X'', '你好'),
  (2, '', '', '', '', '', '', '', '', '', '', '', '', '', '', ''),
  (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (4, 'trail   ', 'x', '`; DROP TABLE t; -- ', '*/', 'ё', 'quote \" and ''', '', '', X'000000000001', X'27', X'5C', X'0A0D00', X'1A', X'FF', '');
UPDATE texts SET c = 'changed', g = NULL, i = X'01' WHERE id IN (1, 4);
";

const SETS: &str = "
CREATE TABLE sets (id INT PRIMARY KEY, a ENUM('new','paid','с пробелом','it''s'), b SET('a','b','c','d','e','f','g','h','i'), c ENUM('x') NOT NULL);
INSERT INTO sets VALUES (1, 'new', 'a,c,i', 'x'), (2, 'it''s', '', 'x'), (3, NULL, NULL, 'x'), (4, 3, 511, 'x');
INSERT INTO sets (id, a, c) VALUES (5, 'nonsense', '');
UPDATE sets SET a = 'paid', b = 'b' WHERE id < 4;
CREATE TABLE spots (id INT PRIMARY KEY, d GEOMETRY, e POINT);
INSERT INTO spots VALUES (1, ST_GeomFromText('POINT(1 2)'), ST_GeomFromText('POINT(-1.5 2.25)')), (2, ST_GeomFromText('LINESTRING(0 0,1 1,2 0)'), NULL);
";

const JSON_TEXT: &str = "
CREATE TABLE docs (id INT PRIMARY KEY, a JSON);
INSERT INTO docs VALUES (1, '{\"b\": 1, \"a\": [1, 2.5, null, true, \"x\"]}'), (2, NULL), (3, '[]');
";

const JSON_BINARY: &str = "
CREATE TABLE docs (id INT PRIMARY KEY, a JSON);
INSERT INTO docs VALUES (1, '{\"b\": 1, \"a\": [1, 2.5, null, true, \"x\", {\"deep\": {\"er\": []}}]}'), (2, NULL), (3, '[]'), (4, '{}'), (5, '\"just text\\\\n\"'), (6, '-1'), (7, '18446744073709551615'),
  (8, '1e100'), (9, 'null'), (10, '-32769'), (11, '65536'), (12, '4294967296'), (13, '1.0'),
  (14, JSON_OBJECT('d', CAST('1.50' AS DECIMAL(10,2)), 't', CAST('2026-11-21 10:00:00.5' AS DATETIME(6)), 'e', CAST('2026-11-21' AS DATE), 'u', CAST('-10:00:01.25' AS TIME(6)))),
  (15, CONCAT('{\"big\": \"', REPEAT('y', 70000), '\", \"more\": [', REPEAT('1,', 30000), '2]}')),
  (16, CONCAT('[', REPEAT('{\"k\": \"value\"},', 6000), 'false]'));
UPDATE docs SET a = JSON_SET(a, '$.b', 'changed') WHERE id = 1;
";

const VECTOR: &str = "
CREATE TABLE vectors (id INT PRIMARY KEY, v VECTOR(3));
INSERT INTO vectors VALUES (1, STRING_TO_VECTOR('[1,2.5,-3]')), (2, NULL);
";

const SHAPES: &str = "
CREATE TABLE many (id INT PRIMARY KEY, v BIGINT NOT NULL, t TEXT);
CREATE TABLE nokey (a INT, b VARCHAR(10));
CREATE TABLE parent (id INT PRIMARY KEY, w INT GENERATED ALWAYS AS (id * 2) VIRTUAL, s INT GENERATED ALWAYS AS (id * 3) STORED);
CREATE TABLE child (a INT, b CHAR(3), parent_id INT, PRIMARY KEY (b, a), FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE CASCADE);
INSERT INTO parent (id) VALUES (1), (2), (3);
INSERT INTO child VALUES (1, 'x', 1), (2, 'y', 2), (3, 'z', 3);
START TRANSACTION; INSERT INTO nokey VALUES (1, 'one'), (1, 'one'), (NULL, NULL); UPDATE nokey SET b = 'uno' WHERE a = 1; COMMIT;
START TRANSACTION; INSERT INTO nokey VALUES (9, 'gone'); ROLLBACK;
START TRANSACTION; INSERT INTO nokey VALUES (2, 'two'); SAVEPOINT s; INSERT INTO nokey VALUES (3, 'gone'); ROLLBACK TO SAVEPOINT s; DELETE FROM nokey WHERE a IS NULL; COMMIT;
DELETE FROM parent WHERE id = 2;
REPLACE INTO child VALUES (1, 'x', 3);
INSERT INTO child VALUES (1, 'x', 1) ON DUPLICATE KEY UPDATE parent_id = 1;
ALTER TABLE child ADD COLUMN note VARCHAR(10) DEFAULT 'n' FIRST;
UPDATE child SET note = 'after' WHERE b = 'x';
TRUNCATE nokey;
";
