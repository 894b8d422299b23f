-- Binary logs that were uploaded. Nothing of their rows can be read here: what came, and the store that was made of it, is sealed with the key of
-- the upload, which is in `upload_key`, sealed by the vault. That table is the vault's, and whose tables are made first is not said: nothing refers
-- to it, and its row is written and deleted in the same transaction as the upload's.

-- While an upload is read, `attempt` says by which attempt of all its life, `tries` by which since it was finished, and `lease_time` until when
-- nobody else begins another.
CREATE TABLE upload (
    tenant_id    text        NOT NULL,
    id           text        PRIMARY KEY,
    name         text        COLLATE "C" NOT NULL,
    file         text        NOT NULL CHECK (octet_length(file) BETWEEN 1 AND 512),
    state        text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'reading', 'ready', 'damaged')),
    bytes        bigint      NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    size         bigint      NOT NULL CHECK (size >= 0),
    keep         boolean     NOT NULL DEFAULT false,
    transactions bigint      NOT NULL DEFAULT 0,
    changes      bigint      NOT NULL DEFAULT 0,
    problem      text        NOT NULL DEFAULT '' CHECK (length(problem) <= 2000),
    create_time  timestamptz NOT NULL DEFAULT now(),
    expire_time  timestamptz NOT NULL,
    -- Whose log it is; none if nobody said.
    server_id    text,
    attempt      bigint      NOT NULL DEFAULT 0,
    tries        bigint      NOT NULL DEFAULT 0,
    lease_time   timestamptz,
    CONSTRAINT upload_name_key UNIQUE (name)
);

CREATE INDEX upload_by_expiry ON upload (expire_time);

-- The file as it came, 1 MiB a row: the row with number n has the bytes from n MiB on.
CREATE TABLE upload_part (
    tenant_id text   NOT NULL,
    upload_id text   NOT NULL,
    number    bigint NOT NULL CHECK (number >= 0),
    sealed    bytea  NOT NULL CHECK (octet_length(sealed) <= 1048576 + 28),
    PRIMARY KEY (upload_id, number)
);

-- The files of the store that an attempt at reading made. Those of the attempt that came to its end stay.
CREATE TABLE upload_file (
    tenant_id text   NOT NULL,
    upload_id text   NOT NULL,
    attempt   bigint NOT NULL,
    name      text   COLLATE "C" NOT NULL,
    bytes     bigint NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (upload_id, attempt, name)
);

-- Their contents, as `upload_part` has those of the log.
CREATE TABLE upload_piece (
    tenant_id text   NOT NULL,
    upload_id text   NOT NULL,
    attempt   bigint NOT NULL,
    name      text   COLLATE "C" NOT NULL,
    number    bigint NOT NULL CHECK (number >= 0),
    sealed    bytea  NOT NULL CHECK (octet_length(sealed) <= 1048576 + 28),
    PRIMARY KEY (upload_id, attempt, name, number)
);

-- What is to go, some rows at a time: the parts of an upload, or the files of attempts before this one, and of this one those with these names.
-- Nothing refers to an upload by a foreign key, because what is large must not go in the transaction that says that it goes.
CREATE TABLE upload_rest (
    tenant_id text   NOT NULL,
    upload_id text   NOT NULL,
    what      text   NOT NULL CHECK (what IN ('parts', 'files')),
    attempt   bigint NOT NULL DEFAULT 0,
    names     text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (upload_id, what)
);

-- What is sealed cannot be compressed.
ALTER TABLE upload_part ALTER COLUMN sealed SET STORAGE EXTERNAL;
ALTER TABLE upload_piece ALTER COLUMN sealed SET STORAGE EXTERNAL;

DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
    name text;
BEGIN
    IF own !~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        RAISE EXCEPTION 'the search path does not begin with a tenant''s schema';
    END IF;
    FOREACH name IN ARRAY ARRAY['upload', 'upload_part', 'upload_file', 'upload_piece', 'upload_rest'] LOOP
        EXECUTE format(
            'ALTER TABLE %I ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT %I CHECK (tenant_id = %L)',
            name, own, name || '_is_of_this_tenant', own
        );
    END LOOP;
END
$own$;
