//! The variables that a chat template sees, from a client's JSON.

use crate::error::{Result, TextError};
use serde_json::{Map, Value};

const MAX_MESSAGES_BYTES: usize = 8 << 20;
const MAX_VARIABLES_BYTES: usize = 1 << 20;

/// Texts are JSON; empty tools or extra means absent.
pub struct ChatRequest<'a> {
    pub messages: &'a str,
    pub tools: &'a str,
    pub extra: &'a str,
    pub add_generation_prompt: bool,
}

impl ChatRequest<'_> {
    pub fn variables(&self, special_tokens: &Map<String, Value>) -> Result<Map<String, Value>> {
        let mut variables = special_tokens.clone();
        variables.insert("documents".into(), Value::Null);
        for (name, value) in parse_extra(self.extra)? {
            variables.insert(name, value);
        }
        variables.insert("messages".into(), parse_messages(self.messages)?);
        variables.insert("tools".into(), parse_tools(self.tools)?);
        variables.insert("add_generation_prompt".into(), self.add_generation_prompt.into());
        Ok(variables)
    }
}

fn parse(field: &str, text: &str, max_bytes: usize) -> Result<Value> {
    if text.len() > max_bytes {
        return Err(TextError::invalid(format!("{field}: {} bytes are more than {max_bytes}", text.len())));
    }
    serde_json::from_str(text).map_err(|error| TextError::invalid(format!("{field}: {error}")))
}

fn parse_messages(text: &str) -> Result<Value> {
    let malformed = || TextError::invalid("messages: expected a JSON array of objects");
    let Value::Array(messages) = parse("messages", text, MAX_MESSAGES_BYTES)? else {
        return Err(malformed());
    };
    if messages.is_empty() {
        return Err(TextError::invalid("messages: empty; expected at least one"));
    }
    messages
        .into_iter()
        .map(|message| match message {
            Value::Object(fields) => Ok(Value::Object(as_templates_expect(fields))),
            _ => Err(malformed()),
        })
        .collect()
}

/// As transformers does: a null field counts as absent, and reasoning goes by each of its usual names.
fn as_templates_expect(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.retain(|_, value| !value.is_null());
    let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| fields.get(*name)).cloned();
    let Some(reasoning) = reasoning else {
        return fields;
    };
    let mut named = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
    named.append(&mut fields);
    named.insert("reasoning_content".into(), reasoning);
    named
}

fn parse_tools(text: &str) -> Result<Value> {
    match text {
        "" => Ok(Value::Null),
        text => match parse("tools", text, MAX_VARIABLES_BYTES)? {
            tools @ Value::Array(_) => Ok(tools),
            _ => Err(TextError::invalid("tools: expected a JSON array")),
        },
    }
}

fn parse_extra(text: &str) -> Result<Map<String, Value>> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    let Value::Object(extra) = parse("extra", text, MAX_VARIABLES_BYTES)? else {
        return Err(TextError::invalid("extra: expected a JSON object"));
    };
    match ["messages", "tools", "add_generation_prompt"].iter().find(|name| extra.contains_key(**name)) {
        Some(name) => Err(TextError::invalid(format!("extra: {name} has a field of its own"))),
        None => Ok(extra),
    }
}
