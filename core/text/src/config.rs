//! What a checkpoint folder says about text besides `tokenizer.json`: special tokens, limits, chat templates.

use crate::error::{Code, Result, TextError};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
const MAX_CONFIG_BYTES: u64 = 32 << 20;
/// The longest in use has 30 KB.
const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// transformers writes 1e30 where a tokenizer has no limit.
const MAX_MODEL_LENGTH: f64 = i32::MAX as f64;

const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

#[derive(Debug, Default)]
pub struct TextConfig {
    /// Name (`bos_token`, …, `additional_special_tokens`) to a string, or to a list of strings.
    pub special_tokens: Map<String, Value>,
    /// 0 if the checkpoint names no limit.
    pub model_max_length: i32,
    /// Template name (`default`, `tool_use`, …) to its source.
    pub templates: BTreeMap<String, String>,
}

impl TextConfig {
    pub fn load(folder: &Path) -> Result<Self> {
        let config = read_object(folder, "tokenizer_config.json")?;
        let legacy = read_object(folder, "special_tokens_map.json")?;
        Ok(Self {
            special_tokens: special_tokens(&config, &legacy),
            model_max_length: model_max_length(&config),
            templates: chat_templates(folder, &config)?,
        })
    }

    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name)?.as_str()
    }

    /// Every special token's text, lists flattened.
    pub fn special_texts(&self) -> impl Iterator<Item = &str> {
        self.special_tokens.values().flat_map(|value| match value {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>(),
            other => other.as_str().into_iter().collect(),
        })
    }
}

pub fn read_tokenizer_json(folder: &Path) -> Result<String> {
    read_text(folder, "tokenizer.json", MAX_TOKENIZER_BYTES)?
        .ok_or_else(|| TextError::new(Code::NotFound, "the checkpoint has no tokenizer.json"))
}

fn read_text(folder: &Path, name: &str, max_bytes: u64) -> Result<Option<String>> {
    let unreadable = |reason: String| TextError::new(Code::FailedPrecondition, format!("{name}: {reason}"));
    let too_long = || TextError::invalid(format!("{name}: more than {max_bytes} bytes"));
    let cannot_read = |error: io::Error| unreadable(error.kind().to_string());
    let file = match open(&folder.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_read(error)),
    };
    let metadata = file.metadata().map_err(cannot_read)?;
    if !metadata.is_file() {
        return Err(unreadable("not a plain file".into()));
    }
    if metadata.len() > max_bytes {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_long());
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        TextError::invalid(format!("{name}: invalid UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })
}

/// Does not wait: a named pipe in the folder must not hold the load forever.
fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn read_object(folder: &Path, name: &str) -> Result<Map<String, Value>> {
    let Some(text) = read_text(folder, name, MAX_CONFIG_BYTES)? else {
        return Ok(Map::new());
    };
    serde_json::from_str(&text).map_err(|error| TextError::invalid(format!("{name}: {error}")))
}

/// A token is written as a string, or since 2020 as an object with its text in `content`.
fn token_text(value: &Value) -> Option<Value> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(Value::from(text))
}

fn special_tokens(config: &Map<String, Value>, legacy: &Map<String, Value>) -> Map<String, Value> {
    // As transformers: special_tokens_map.json counts more only where tokenizer_config.json is of the older form.
    let (first, second) = if config.contains_key("added_tokens_decoder") { (config, legacy) } else { (legacy, config) };
    let mut tokens = Map::new();
    for name in SPECIAL_TOKENS {
        if let Some(text) = [first, second].iter().find_map(|file| token_text(file.get(name)?)) {
            tokens.insert(name.into(), text);
        }
    }
    let lists = ["additional_special_tokens", "extra_special_tokens"];
    for list in lists.iter().flat_map(|list| [first.get(*list), second.get(*list)]).flatten() {
        add_further_tokens(list, &mut tokens);
    }
    tokens
}

/// Named further tokens (`extra_special_tokens: {"image_token": "<image>"}`) become variables of their own.
fn add_further_tokens(list: &Value, tokens: &mut Map<String, Value>) {
    const NAME: &str = "additional_special_tokens";
    match list {
        Value::Array(items) if !tokens.contains_key(NAME) && !items.is_empty() => {
            tokens.insert(NAME.into(), items.iter().filter_map(token_text).collect());
        }
        Value::Object(named) => {
            for (name, value) in named {
                if let (false, Some(text)) = (tokens.contains_key(name), token_text(value)) {
                    tokens.insert(name.clone(), text);
                }
            }
        }
        _ => {}
    }
}

fn model_max_length(config: &Map<String, Value>) -> i32 {
    match config.get("model_max_length").and_then(Value::as_f64) {
        Some(length) if (1.0..=MAX_MODEL_LENGTH).contains(&length) => length as i32,
        _ => 0,
    }
}

fn chat_templates(folder: &Path, config: &Map<String, Value>) -> Result<BTreeMap<String, String>> {
    let mut templates = BTreeMap::new();
    let processor = read_object(folder, "chat_template.json")?;
    for file in [&processor, config] {
        if let Some(value) = file.get("chat_template") {
            add_templates(value, &mut templates)?;
        }
    }
    if let Some(source) = read_text(folder, "chat_template.jinja", MAX_TEMPLATE_BYTES as u64)? {
        templates.insert("default".into(), source);
    }
    add_named_files(&folder.join("additional_chat_templates"), &mut templates)?;
    Ok(templates)
}

fn add_templates(value: &Value, templates: &mut BTreeMap<String, String>) -> Result<()> {
    let malformed =
        || TextError::invalid("chat_template: expected a string, or a list of {\"name\", \"template\"} of strings");
    match value {
        Value::Null => {}
        Value::String(source) => add_template("default", source, templates)?,
        Value::Array(items) => {
            for item in items {
                let field = |key: &str| item.get(key).and_then(Value::as_str).ok_or_else(malformed);
                add_template(field("name")?, field("template")?, templates)?;
            }
        }
        Value::Object(named) => {
            for (name, source) in named {
                add_template(name, source.as_str().ok_or_else(malformed)?, templates)?;
            }
        }
        _ => return Err(malformed()),
    }
    Ok(())
}

fn add_template(name: &str, source: &str, templates: &mut BTreeMap<String, String>) -> Result<()> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(TextError::invalid(format!("chat_template: more than {MAX_TEMPLATE_BYTES} bytes")));
    }
    templates.insert(name.into(), source.into());
    Ok(())
}

fn add_named_files(folder: &Path, templates: &mut BTreeMap<String, String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let (Some(stem), Some(file)) = (path.file_stem(), path.file_name()) else { continue };
        if path.extension().is_some_and(|extension| extension == "jinja") {
            let file = file.to_string_lossy();
            if let Some(source) = read_text(folder, &file, MAX_TEMPLATE_BYTES as u64)? {
                templates.insert(stem.to_string_lossy().into_owned(), source);
            }
        }
    }
    Ok(())
}
