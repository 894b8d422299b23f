CREATE TABLE hidden (id INT PRIMARY KEY, a INT, b INT INVISIBLE);
INSERT INTO hidden (id, a, b) VALUES (1, 1, 10), (2, 2, NULL), (3, NULL, 30);
CREATE TABLE docs (id INT PRIMARY KEY, a JSON);
INSERT INTO docs VALUES (1, '{"b": 1, "a": [1, 2.5, null, true, "x", {"deep": {"er": []}}]}'), (2, NULL), (3, '[]'), (4, '{}'), (5, '"it''s \\\\ é \\n"'), (6, '-1'),
  (7, '18446744073709551615'), (8, '1e100'), (9, 'null'), (10, '-32769'), (11, '65536'), (12, '4294967296'), (13, '1.0'),
  (14, JSON_OBJECT('d', CAST('1.50' AS DECIMAL(10,2)), 't', CAST('2026-11-21 10:00:00.5' AS DATETIME(6)), 'e', CAST('2026-11-21' AS DATE),
    'u', CAST('-10:00:01.25' AS TIME(6)), 'b', X'00FF', 'n', CAST(7 AS UNSIGNED), 'i', 5, 'w', CAST(5 AS DECIMAL(3,0)), 'f', 0.5e0, 's', 'it''s')),
  (15, CONCAT('{"big": "', REPEAT('y', 70000), '", "more": [', REPEAT('1,', 30000), '2]}')),
  (16, JSON_ARRAY(JSON_OBJECT('é', JSON_ARRAY(1.10, TRUE, FALSE, NULL, JSON_ARRAY(), JSON_OBJECT()), 'long', REPEAT('z', 70000)))),
  (17, CAST(CAST('2026-11-21' AS DATE) AS JSON)), (18, CAST(CAST(-1.25 AS DECIMAL(5,2)) AS JSON)), (19, CAST(CAST(5 AS UNSIGNED) AS JSON));
SET sql_generate_invisible_primary_key = ON;
CREATE TABLE implied (id INT, n INT);
SET sql_generate_invisible_primary_key = OFF;
INSERT INTO implied VALUES (1, 1), (2, 2), (2, 2), (3, NULL);
