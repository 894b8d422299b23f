-- What a tenant has bought. What its plan has no room for is frozen: it stays, and does nothing.

-- The newest beyond the plan's limit, except owners.
ALTER TABLE tenant.member ADD COLUMN frozen_time timestamptz;

-- `agreed_plan` is the operator's word, `plan` what counts: the higher of that and of what the tenant's subscriptions give.
ALTER TABLE tenant.tenant
    ADD COLUMN agreed_plan text NOT NULL DEFAULT 'free' CHECK (agreed_plan IN ('free', 'pro', 'premium', 'enterprise'));
UPDATE tenant.tenant SET agreed_plan = plan;

-- As in 0001, without who is frozen.
CREATE OR REPLACE VIEW tenant.seat AS
SELECT
    m.user_id,
    m.tenant_id,
    m.role,
    coalesce(
        (
            SELECT jsonb_object_agg(b.pool_id, b.role)
            FROM tenant.binding AS b
            WHERE b.tenant_id = m.tenant_id AND b.user_id = m.user_id
        ),
        '{}'
    ) AS pools,
    t.plan,
    t.region
FROM tenant.member AS m
INNER JOIN tenant.tenant AS t ON m.tenant_id = t.id
WHERE t.state = 'active' AND m.frozen_time IS NULL;

-- What Stripe told, once for each event. Of an event nothing is kept but this: it is a hint to look at the subscription.
CREATE TABLE tenant.stripe_event (
    id              text        PRIMARY KEY,
    kind            text        NOT NULL,
    event_time      timestamptz NOT NULL,
    subscription_id text,
    receive_time    timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX stripe_event_by_time ON tenant.stripe_event (receive_time);

-- A subscription as Stripe showed it last. Each hint makes `hinted` one more; who looks at Stripe notes `hinted` first and writes what it saw
-- only where `seen` is less, so that what was seen later stays. `dead_time` is when nobody tried any more, and `problem` why.
CREATE TABLE tenant.subscription (
    id            text        PRIMARY KEY,
    tenant_id     text        REFERENCES tenant.tenant (id) ON DELETE CASCADE,
    customer_id   text,
    state         text        CHECK (state IN ('incomplete', 'active', 'past_due', 'suspended', 'ended')),
    plan          text        CHECK (plan IN ('free', 'pro', 'premium', 'enterprise')),
    paid_until    timestamptz,
    grace_until   timestamptz,
    hinted        bigint      NOT NULL DEFAULT 1,
    seen          bigint      NOT NULL DEFAULT 0,
    attempts      integer     NOT NULL DEFAULT 0,
    due_time      timestamptz NOT NULL DEFAULT now(),
    dead_time     timestamptz,
    problem       text,
    lapsed        boolean     NOT NULL DEFAULT false,
    create_time   timestamptz NOT NULL DEFAULT now(),
    CHECK (seen <= hinted),
    CHECK ((state = 'past_due') = (grace_until IS NOT NULL))
);

CREATE INDEX subscription_by_tenant ON tenant.subscription (tenant_id);
CREATE INDEX subscription_by_turn ON tenant.subscription (due_time) WHERE seen < hinted AND dead_time IS NULL;
CREATE INDEX subscription_by_grace ON tenant.subscription (grace_until) WHERE state = 'past_due' AND NOT lapsed;
CREATE INDEX subscription_dead ON tenant.subscription (dead_time) WHERE dead_time IS NOT NULL;
