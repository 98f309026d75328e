//! Logs: what is written, and how.

use std::sync::OnceLock;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::terminal::Look;

/// The least important messages that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs somebody.
    Error,
    /// What may need somebody soon.
    Warn,
    /// What happens.
    Info,
    /// Why it happens.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSpec {
    /// What is written.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// Writes logs to standard error from now on. Only the first call counts.
///
/// Libraries are heard from warnings up, whatever the level: what they tell below that is about
/// bytes on the wire, which hold tokens.
pub fn init(spec: LogSpec) {
    let (filter, handle) = reload::Layer::new(filter(spec.level));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match spec.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer
            .with_ansi(Look::of(&std::io::stderr()).colours)
            .with_target(false)
            .boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init();
    if started.is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Changes what is written from now on.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // It fails only when logs have ended.
        let _ = handle.reload(filter(level));
    }
}

static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target(env!("CARGO_CRATE_NAME"), level)
        .with_target(crate::audit::TARGET, level)
}
