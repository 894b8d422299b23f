-- The demo's shop: four tables of varied types and about 6,500 rows, the same at every run, for MariaDB and MySQL alike.
-- Nothing here depends on the clock or on chance, so a second copy made from this file equals the first.

CREATE TABLE customers (
  id INT UNSIGNED PRIMARY KEY,
  name VARCHAR(80) NOT NULL,
  email VARCHAR(120) NOT NULL UNIQUE,
  joined DATE NOT NULL,
  preferences JSON NOT NULL,
  note TEXT
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE products (
  id SMALLINT UNSIGNED PRIMARY KEY,
  sku CHAR(8) NOT NULL UNIQUE,
  title VARCHAR(120) NOT NULL,
  price DECIMAL(10, 2) NOT NULL,
  weight DOUBLE NOT NULL,
  tags SET('new', 'sale', 'organic') NOT NULL,
  stock INT NOT NULL,
  photo_digest BINARY(8)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE orders (
  id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  customer_id INT UNSIGNED NOT NULL,
  status ENUM('new', 'paid', 'packed', 'shipped', 'delivered', 'cancelled') NOT NULL,
  placed_at DATETIME(6) NOT NULL,
  paid_at TIMESTAMP(3) NULL,
  amount DECIMAL(12, 2) NOT NULL,
  discount DECIMAL(12, 2) NOT NULL,
  amount_due DECIMAL(12, 2) GENERATED ALWAYS AS (amount - discount) STORED,
  parcels TINYINT UNSIGNED NOT NULL DEFAULT 1,
  shipping_note VARCHAR(200),
  KEY (status, placed_at),
  FOREIGN KEY (customer_id) REFERENCES customers (id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE order_items (
  order_id BIGINT UNSIGNED NOT NULL,
  line_no TINYINT UNSIGNED NOT NULL,
  product_id SMALLINT UNSIGNED NOT NULL,
  quantity SMALLINT UNSIGNED NOT NULL,
  unit_price DECIMAL(10, 2) NOT NULL,
  gift_text VARCHAR(120),
  options JSON,
  PRIMARY KEY (order_id, line_no),
  FOREIGN KEY (order_id) REFERENCES orders (id),
  FOREIGN KEY (product_id) REFERENCES products (id)
) DEFAULT CHARSET = utf8mb4;

CREATE VIEW numbers AS
WITH RECURSIVE counted (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM counted WHERE i < 1000)
SELECT i + 1000 * thousands.k AS i FROM counted JOIN (SELECT 0 AS k UNION ALL SELECT 1) AS thousands;

INSERT INTO customers
SELECT
  i,
  CONCAT(ELT(1 + i % 7, 'Zoë', 'José', 'Łukasz', 'Nguyễn', '山田', 'O''Neill', 'Ada 👩‍🚀'), ' ', i),
  CONCAT('customer', i, '@shop.example'),
  '2019-03-01' + INTERVAL i * 5 DAY,
  JSON_OBJECT('newsletter', i % 2, 'visits', 0, 'sizes', JSON_ARRAY(i % 40, 'L')),
  IF(i % 4 = 0, CONCAT('calls\nbefore ', i % 12, ' o''clock; "the back door" \\ 100%'), NULL)
FROM numbers WHERE i <= 500;

INSERT INTO products
SELECT
  i,
  CONCAT('SKU', LPAD(i, 5, '0')),
  CONCAT(ELT(1 + i % 5, 'Tea', 'Café crème', 'Grüner Becher', 'Ложка', '茶碗'), ' No. ', i),
  1.99 + i * 1.37,
  i / 7,
  ELT(1 + i % 4, '', 'new', 'sale', 'new,organic'),
  100000,
  UNHEX(LEFT(SHA2(i, 256), 16))
FROM numbers WHERE i <= 100;

INSERT INTO orders (id, customer_id, status, placed_at, paid_at, amount, discount, parcels, shipping_note)
SELECT
  i,
  1 + i * 13 % 500,
  IF(i % 37 = 1, 'cancelled', ELT(1 + i % 5, 'new', 'paid', 'packed', 'shipped', 'delivered')),
  '2025-06-01 08:00:00.000000' + INTERVAL i * 380 MINUTE + INTERVAL i * 1009 MICROSECOND,
  IF(i % 5 = 0, NULL, '2025-06-01 09:30:00.250' + INTERVAL i * 380 MINUTE),
  20 + i % 300 + 0.95,
  IF(i % 2 = 0, i % 20 + 0.5, 0),
  1 + i % 3,
  IF(i % 6 = 0, 'Leave at the neighbour''s — 2ᵉ étage', NULL)
FROM numbers;

-- Every fiftieth order has no items (yet).
INSERT INTO order_items
SELECT
  numbers.i,
  line.no,
  1 + (numbers.i * 3 + line.no) % 100,
  1 + numbers.i % 4,
  1.99 + (1 + (numbers.i * 3 + line.no) % 100) * 1.37,
  IF(numbers.i % 9 = 0, 'For Zoë ''n'' co: "100 %" \\ 💛', NULL),
  IF(line.no = 2, JSON_OBJECT('colour', ELT(1 + numbers.i % 3, 'red', 'blue', 'grün'), 'engraved', numbers.i % 2 = 0), NULL)
FROM numbers JOIN (SELECT 1 AS no UNION ALL SELECT 2 UNION ALL SELECT 3) AS line ON line.no <= 1 + numbers.i % 3
WHERE numbers.i % 50 <> 0;

DROP VIEW numbers;
