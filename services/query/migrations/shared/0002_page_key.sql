-- What page tokens are sealed with, so that they say nothing of the places that they name: one key for all replicas, made by the first that needs it.
CREATE TABLE query.page_key (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key bytea   NOT NULL CHECK (octet_length(key) = 32)
);
