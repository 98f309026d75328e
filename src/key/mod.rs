//! Signing keys: the keys themselves, what is recorded of them, what is to become of them, and where
//! they are kept.

pub mod plan;
pub mod record;
pub mod signing;
pub mod store;
