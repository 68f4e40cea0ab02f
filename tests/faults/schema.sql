-- A little of everything that PostgreSQL keeps in files of its own, for 13 to 18.
CREATE ROLE reader LOGIN PASSWORD 'a secret' CONNECTION LIMIT 7;
CREATE ROLE keepers NOLOGIN;
GRANT keepers TO reader;
CREATE TABLESPACE space LOCATION :'space';

-- Pages enough to lose one of them, all of them written twice.
CREATE TABLE accounts (id int PRIMARY KEY, branch int NOT NULL, balance int NOT NULL, filler char(84));
INSERT INTO accounts SELECT id, id % 10, id * 7, 'filler' FROM generate_series(1, 4000) id;
CREATE INDEX accounts_branch ON accounts (branch);
CREATE UNIQUE INDEX accounts_twice ON accounts (balance, id) WHERE id % 2 = 0;
ALTER TABLE accounts OWNER TO keepers;
GRANT SELECT ON accounts TO reader;

CREATE TABLE documents (id int PRIMARY KEY, body text, data jsonb);
ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
INSERT INTO documents SELECT id, repeat(md5(id::text), 200), jsonb_build_object('id', id, 'tags', jsonb_build_array(id % 7, 'x' || id))
    FROM generate_series(1, 60) id;
CREATE INDEX documents_data ON documents USING gin (data);

CREATE TABLE places (id int, spot point, mark text);
INSERT INTO places SELECT id, point(id % 31, id % 17), 'mark ' || id FROM generate_series(1, 500) id;
CREATE INDEX places_gist ON places USING gist (spot);
CREATE INDEX places_spgist ON places USING spgist (spot);
CREATE INDEX places_hash ON places USING hash (mark);
CREATE INDEX places_brin ON places USING brin (id);

CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY, note text, spot point);
ALTER TABLE scratch ALTER note SET STORAGE EXTERNAL;
CREATE INDEX scratch_spot ON scratch USING gist (spot);
INSERT INTO scratch SELECT id, repeat('note ' || id, 500), point(id % 31, id % 17) FROM generate_series(1, 300) id;

CREATE SEQUENCE numbers INCREMENT 3;
SELECT setval('numbers', 4711);

CREATE TABLE measured (taken date NOT NULL, value int, PRIMARY KEY (taken, value)) PARTITION BY RANGE (taken);
CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measured_2026 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO measured SELECT date '2025-07-01' + n, n FROM generate_series(1, 365) n;

CREATE MATERIALIZED VIEW totals AS SELECT branch, sum(balance) AS balance FROM accounts GROUP BY branch;
CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 20000;
CREATE TABLE nothing (id int PRIMARY KEY, account int REFERENCES accounts);
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE FUNCTION doubled(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE TABLE apart (id int PRIMARY KEY, feeling mood) TABLESPACE space;
INSERT INTO apart SELECT id, 'glad' FROM generate_series(1, 50) id;
COMMENT ON TABLE apart IS 'elsewhere';

-- Rows locked and changed by several transactions at once: multixacts, of which one has an updater.
BEGIN;
SELECT count(*) FROM (SELECT 1 FROM places WHERE id <= 40 FOR KEY SHARE) locked;
SAVEPOINT inner_one;
UPDATE places SET mark = mark || '!' WHERE id <= 20;
SELECT count(*) FROM (SELECT 1 FROM places WHERE id <= 40 FOR SHARE) locked;
COMMIT;

CREATE DATABASE dropped;
DROP DATABASE dropped;
CREATE DATABASE second OWNER reader;
\connect second
CREATE TABLE notes (id int PRIMARY KEY, note text);
INSERT INTO notes SELECT id, 'note ' || id FROM generate_series(1, 200) id;
