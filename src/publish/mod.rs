//! Where public keys go so that others can trust the tokens.

pub mod webroot;
