//! The store: append transactions, seal segments, find changes, certify coverage.
