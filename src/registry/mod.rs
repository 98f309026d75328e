//! Registration entries: what makes one, and which there are.

pub mod rules;
