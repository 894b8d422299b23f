-- What an address gets is counted by kind, so that one kind takes nothing away from another; a sign-up's mail says when it was; and wrong
-- codes that come with an API key are the key's.

-- 'none' is not counted: what happens to an account.
ALTER TABLE auth.outbox
    ADD COLUMN allowance text NOT NULL DEFAULT 'none'
        CHECK (allowance IN ('none', 'verification', 'account-exists', 'reset', 'invitation')),
    DROP COLUMN asked_for;

-- The order in which entries are taken: invitations after everything else.
DROP INDEX auth.outbox_due;
CREATE INDEX outbox_turn ON auth.outbox ((allowance = 'invitation'), due_at) WHERE done_at IS NULL;

-- When the sign-up was asked for that a token brings into force; `created_at` is that of the token.
ALTER TABLE auth.email_token ADD COLUMN signed_up_at timestamptz NOT NULL DEFAULT clock_timestamp();

-- The memory of wrong codes that came with a key, as in `factor`.
ALTER TABLE auth.api_key
    ADD COLUMN code_wrong bigint[] NOT NULL DEFAULT '{}' CHECK (cardinality(code_wrong) <= 20),
    ADD COLUMN code_streak integer NOT NULL DEFAULT 0,
    ADD COLUMN code_locked_until bigint,
    ADD COLUMN code_suspended_at bigint;
