//! `sensora config`: where the configuration is, whether it is sound, and what can stand in it.

use serde_json::json;

use crate::args::ConfigAction;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Outcome;

/// Does what was asked.
pub(super) fn run(action: ConfigAction, context: &Context) -> Outcome<Exit> {
    let out = &context.out;
    match action {
        ConfigAction::Path => {
            let path = context.paths()?.config();
            if out.is_json() {
                out.document(&json!({"config": path, "exists": path.exists()}))?;
            } else {
                out.line(path.display().to_string())?;
            }
        }
        ConfigAction::Check => {
            let paths = context.paths()?;
            let config = context.config(&paths)?;
            if out.is_json() {
                out.document(&json!({"ok": true, "config": paths.config(), "network": config.network, "streams": config.streams.len()}))?;
            } else {
                out.line(format!("{} {}", out.paint().good("sound"), paths.config().display()))?;
            }
        }
        ConfigAction::Print => {
            let text = sensora_node::config::DEFAULT_TEXT;
            if out.is_json() {
                out.document(&json!({ "default": text }))?;
            } else {
                out.line(text.trim_end())?;
            }
        }
    }
    Ok(Exit::Ok)
}
