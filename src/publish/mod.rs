//! Where public keys go so that others can trust the tokens.

pub mod check;
pub mod examine;
pub mod webroot;
