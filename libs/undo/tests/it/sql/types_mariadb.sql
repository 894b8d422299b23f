CREATE TABLE hidden (id INT PRIMARY KEY, a INT, b INT INVISIBLE);
INSERT INTO hidden (id, a, b) VALUES (1, 1, 10), (2, 2, NULL), (3, NULL, 30);
CREATE TABLE docs (id INT PRIMARY KEY, a JSON);
INSERT INTO docs VALUES (1, '{"b": 1, "a": [1, 2.5, null, true, "x"]}'), (2, NULL), (3, '[]'), (4, '"it''s \\\\ é"');
CREATE TABLE addresses (id INT PRIMARY KEY, a UUID, b INET6, c INET4);
INSERT INTO addresses VALUES (1, 'f47ac10b-58cc-1372-8567-0e02b2c3d479', '2001:db8::1', '1.2.3.4'),
  (2, '018f6e2e-7b3c-7c1a-9a51-0123456789ab', '::', '0.0.0.0'), (3, NULL, NULL, NULL), (4, '123e4567-e89b-42d3-a456-426614174000', '::ffff:1.2.3.4', '255.255.255.255');
