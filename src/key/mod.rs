//! Signing keys: the keys themselves, what is recorded of them, and where both are kept.

pub mod record;
pub mod signing;
pub mod store;
