-- What the tenant's plan has no room for: the newest beyond its limit. Frozen things stay, and nothing is done for them.
ALTER TABLE server ADD COLUMN frozen_time timestamptz;
ALTER TABLE agent ADD COLUMN frozen_time timestamptz;
