//! Token files and commands as the unmodified SDKs of AWS, Google Cloud, Azure and Kubernetes use
//! them, against token services of our own: these find the keys through discovery, as a real nginx
//! serves them, and keep to the published limits. What each service refuses shows that it can.

mod aws;
mod azure;
mod bench;
#[path = "../common/mod.rs"]
mod common;
mod diridp;
mod exec;
mod gcp;
mod integrate;
mod kubernetes;
#[path = "../common/web.rs"]
mod web;
