-- Accounts, sessions, and the mails that are to go out. Ids are text with their prefix. `bytea` columns called sealed hold AES-256-GCM
-- ciphertext bound to table, row and column; the key is not in the database.

-- One row per address from its first sign-up on; it counts once verified. `email_key` is the address in the form in which two of them are
-- compared. `password` is the sealed argon2id hash.
CREATE TABLE auth.account (
    id           text        PRIMARY KEY CHECK (id ~ '^usr_[0-7][0-9a-hjkmnp-tv-z]{25}$'),
    email        text        NOT NULL CHECK (octet_length(email) <= 254),
    email_key    text        NOT NULL,
    display_name text        NOT NULL DEFAULT '' CHECK (char_length(display_name) <= 100),
    password     bytea,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_at  timestamptz,
    password_at  timestamptz,
    CONSTRAINT account_email_key UNIQUE (email_key),
    CHECK (verified_at IS NULL OR password IS NOT NULL)
);

CREATE INDEX account_unverified ON auth.account (created_at) WHERE verified_at IS NULL;

-- What a mail's one-time token stands for. A sign-up's password and name wait here until *its* token comes back, so that nobody's click
-- activates a password that somebody else chose for the same address in another sign-up.
CREATE TABLE auth.email_token (
    sha256       bytea       PRIMARY KEY CHECK (octet_length(sha256) = 32),
    account_id   text        NOT NULL REFERENCES auth.account (id) ON DELETE CASCADE,
    purpose      text        NOT NULL CHECK (purpose IN ('verify', 'reset')),
    display_name text,
    password     bytea,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    CHECK ((purpose = 'verify') = (password IS NOT NULL AND display_name IS NOT NULL))
);

CREATE INDEX email_token_by_account ON auth.email_token (account_id, purpose, created_at);
CREATE INDEX email_token_by_expiry ON auth.email_token (expires_at);

-- `generation` is the live one of the refresh token; `recent` the latest replacements: [{"generation": 6, "at": microseconds}].
CREATE TABLE auth.session (
    id             text        PRIMARY KEY CHECK (id ~ '^ses_[0-7][0-9a-hjkmnp-tv-z]{25}$'),
    account_id     text        NOT NULL REFERENCES auth.account (id) ON DELETE CASCADE,
    hmac_key       bytea       NOT NULL,
    generation     bigint      NOT NULL DEFAULT 0,
    recent         jsonb       NOT NULL DEFAULT '[]',
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    idle_until     timestamptz NOT NULL,
    used_at        timestamptz NOT NULL,
    revoked_at     timestamptz,
    client_address text        NOT NULL,
    user_agent     text        NOT NULL,
    CHECK (expires_at <= created_at + interval '30 days')
);

CREATE INDEX session_by_account ON auth.session (account_id, id COLLATE "C" DESC) WHERE revoked_at IS NULL;
CREATE INDEX session_by_expiry ON auth.session (expires_at);

-- Devices that signed in to the account before.
CREATE TABLE auth.device (
    sha256     bytea       PRIMARY KEY CHECK (octet_length(sha256) = 32),
    account_id text        NOT NULL REFERENCES auth.account (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX device_by_account ON auth.device (account_id, used_at);

-- Mails and requests for mails, written in the transaction of what they are about. `body` is sealed and wiped when the mail has gone out; the
-- row stays for a day, to count how many mails an address got.
CREATE TABLE auth.outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seal_id    text        NOT NULL,
    kind       text        NOT NULL CHECK (kind IN ('request', 'letter')),
    to_key     bytea       NOT NULL CHECK (octet_length(to_key) = 32),
    asked_for  boolean     NOT NULL,
    body       bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts   integer     NOT NULL DEFAULT 0,
    done_at    timestamptz
);

CREATE INDEX outbox_due ON auth.outbox (due_at) WHERE done_at IS NULL;
CREATE INDEX outbox_by_address ON auth.outbox (to_key, created_at);

-- Proofs of a second factor that were used.
CREATE TABLE auth.used_grant (
    id         text        NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT used_grant_key PRIMARY KEY (id)
);

CREATE INDEX used_grant_by_expiry ON auth.used_grant (expires_at);

-- What service tenant reads: who is behind an address, once that is proven.
CREATE VIEW auth.person AS
SELECT
    id AS user_id,
    email,
    display_name
FROM auth.account
WHERE verified_at IS NOT NULL;

GRANT USAGE ON SCHEMA auth TO trailmesh_auth, trailmesh_tenant;
GRANT SELECT ON auth.person TO trailmesh_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON auth.account, auth.email_token, auth.session, auth.device, auth.outbox, auth.used_grant TO trailmesh_auth;
