//! Crashes and broken disks, on the real agent: it is killed at every call by which it writes keys,
//! records and documents, killed at random under load, and kept on disks that are full, read-only
//! or broken. What holds is always the same, see [`plant::Plant`]. That a second agent is kept off
//! the data directory is shown in `lifecycle.rs`.

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod kills;
#[path = "../common/load.rs"]
mod load;
mod plant;
mod watcher;
