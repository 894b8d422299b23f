//! Real servers, folders and waiting for tests.
