-- Keys that a plan has no room for: of a tenant's live keys the newest beyond its limit. Which these are is not written down: it is counted
-- whenever a key is used, in this index.
CREATE INDEX api_key_alive ON auth.api_key (tenant_id, id) INCLUDE (expire_time) WHERE revoke_time IS NULL;

-- What service tenant reads: how many live keys a tenant has.
CREATE VIEW auth.api_key_count AS
SELECT
    tenant_id,
    count(*) AS live
FROM auth.api_key
WHERE revoke_time IS NULL AND expire_time > clock_timestamp()
GROUP BY tenant_id;

GRANT SELECT ON auth.api_key_count TO trailmesh_tenant;
