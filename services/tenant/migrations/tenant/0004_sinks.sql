-- Where the audit log is sent. `secret_envelope` is what the vault has made of the secret that a webhook is signed with; it is sealed for this
-- sink, field `secret`, version `secret_version`, with version `secret_key_version` of the tenant's key.
CREATE TABLE audit_sink (
    tenant_id          text        NOT NULL,
    id                 text        PRIMARY KEY,
    name               text        COLLATE "C" NOT NULL,
    kind               text        NOT NULL CHECK (kind IN ('syslog', 'webhook', 'file')),
    url                text        NOT NULL CHECK ((url = '') = (kind = 'file')),
    format             text        NOT NULL CHECK (format IN ('ocsf', 'ecs', 'cef')),
    create_time        timestamptz NOT NULL DEFAULT now(),
    secret_envelope    text,
    secret_version     bigint      NOT NULL DEFAULT 1,
    secret_key_version bigint      NOT NULL DEFAULT 0,
    CONSTRAINT audit_sink_name_key UNIQUE (name),
    CHECK ((secret_envelope IS NOT NULL) = (kind = 'webhook'))
);

DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
BEGIN
    EXECUTE format(
        'ALTER TABLE audit_sink ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT audit_sink_is_of_this_tenant CHECK (tenant_id = %L)',
        own, own
    );
END
$own$;
