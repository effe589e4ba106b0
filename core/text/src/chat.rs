//! Chat templates as transformers renders them: Jinja with trim_blocks, lstrip_blocks, loop controls, Python's methods
//! on values, and bounds on steps, recursion, memory, time and output.

use crate::budget::{self, Exceeded, Ledger, Limits};
use crate::chat_request::ChatRequest;
use crate::config::TextConfig;
use crate::error::{Code, Result, TextError};
use crate::python;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

const MAX_OUTPUT_BYTES: usize = 4 << 20;
const MAX_STEPS: u64 = 2_000_000;
const MAX_RECURSION: usize = 200;
/// The stack holds the deepest value that MAX_STEPS can nest, when it is dropped or compared.
const LIMITS: Limits = Limits { memory_bytes: 512 << 20, stack_bytes: 512 << 20, time: Duration::from_secs(20) };

pub struct ChatTemplates {
    environment: Environment<'static>,
    /// Name to what is wrong with it.
    malformed: BTreeMap<String, String>,
    takes_tools: bool,
    special_tokens: Map<String, Value>,
    ledger: Arc<Ledger>,
}

impl ChatTemplates {
    /// Within bounds, because the engine's compiler walks an expression as deep as it is long (`a.b.b.b…`).
    pub fn new(config: &TextConfig) -> Result<Self> {
        let (sources, special_tokens) = (config.templates.clone(), config.special_tokens.clone());
        let compile = move || Self::compile(&sources, special_tokens);
        budget::run(&Arc::default(), LIMITS, compile).map_err(describe_exceeded)
    }

    fn compile(sources: &BTreeMap<String, String>, special_tokens: Map<String, Value>) -> Self {
        let mut environment = new_environment();
        let mut malformed = BTreeMap::new();
        for (name, source) in sources {
            if let Err(error) = environment.add_template_owned(name.clone(), prepared(source)) {
                malformed.insert(name.clone(), describe(&error));
            }
        }
        let mut templates = Self { environment, malformed, takes_tools: true, special_tokens, ledger: Arc::default() };
        templates.takes_tools = templates.reads_tools();
        templates
    }

    pub fn is_empty(&self) -> bool {
        self.environment.templates().next().is_none() && self.malformed.is_empty()
    }

    /// Whether the template of a chat with tools reads them. True where rendering has an error to tell.
    pub fn takes_tools(&self) -> bool {
        self.takes_tools
    }

    fn reads_tools(&self) -> bool {
        let Ok(name) = self.choose(true) else { return true };
        self.environment.get_template(name).is_ok_and(|template| {
            // The engine takes what a template sets for its own, even in `{% set tools = tools or [] %}`.
            template.undeclared_variables(false).contains("tools") || template.source().contains("set tools")
        })
    }

    pub fn render(self: &Arc<Self>, request: &ChatRequest) -> Result<String> {
        let variables = request.variables(&self.special_tokens)?;
        let name = self.choose(!variables["tools"].is_null())?;
        let templates = self.clone();
        let rendered = budget::run(&self.ledger, LIMITS, move || templates.render_named(name, &variables));
        rendered.unwrap_or_else(|exceeded| Err(describe_exceeded(exceeded)))
    }

    fn choose(&self, has_tools: bool) -> Result<&'static str> {
        let failed = |message: String| TextError::new(Code::FailedPrecondition, message);
        let exists = |name: &str| self.environment.get_template(name).is_ok() || self.malformed.contains_key(name);
        let name = if has_tools && exists("tool_use") { "tool_use" } else { "default" };
        if let Some(problem) = self.malformed.get(name) {
            return Err(failed(format!("the model's chat template does not parse: {problem}")));
        }
        if !exists(name) {
            return Err(failed("the model has no chat template".into()));
        }
        Ok(name)
    }

    fn render_named(&self, name: &str, variables: &Map<String, Value>) -> Result<String> {
        let mut out = BoundedOutput::default();
        let template = self.environment.get_template(name).map_err(|error| describe_failure(&error))?;
        match template.render_captured_to(minijinja::Value::from_serialize(variables), &mut out) {
            Ok(_) => String::from_utf8(out.bytes).map_err(|error| TextError::new(Code::Internal, error.to_string())),
            Err(_) if out.is_full => {
                Err(TextError::invalid(format!("chat: the prompt is longer than {MAX_OUTPUT_BYTES} bytes")))
            }
            Err(error) => Err(describe_failure(&error)),
        }
    }
}

fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _, value| python::write_str(out, value));
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", python::string);
    environment.add_filter("trim", python::trim);
    environment.add_test("iterable", python::is_iterable);
    environment.add_test("sequence", python::is_sequence);
    environment.add_function("strftime_now", python::strftime_now);
    environment.add_function("raise_exception", raise_exception);
    environment
}

/// What a template says by `raise_exception`, kept apart from the engine's own errors.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: minijinja::Value) -> std::result::Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message.to_string())))
}

fn describe_failure(error: &Error) -> TextError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TextError::invalid(format!("chat template: {message}"));
        }
        if current.downcast_ref::<Error>().is_some_and(|inner| inner.kind() == ErrorKind::OutOfFuel) {
            let message = format!("chat template: more than {MAX_STEPS} steps");
            return TextError::new(Code::ResourceExhausted, message);
        }
        cause = current.source();
    }
    TextError::invalid(format!("chat template: {}", describe(error)))
}

fn describe(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    match error.detail() {
        Some(detail) => format!("{line}{}: {detail}", error.kind()),
        None => format!("{line}{}", error.kind()),
    }
}

fn describe_exceeded(exceeded: Exceeded) -> TextError {
    let reason = match exceeded {
        Exceeded::Memory => format!("more than {} bytes of memory", LIMITS.memory_bytes),
        Exceeded::Time => format!("more than {} s", LIMITS.time.as_secs()),
        Exceeded::Abandoned => "refused, because it passed its limits before".into(),
        Exceeded::NoThread => "no thread to render it".into(),
    };
    TextError::new(Code::ResourceExhausted, format!("chat template: {reason}"))
}

/// Jinja reads every kind of line end as a newline.
fn prepared(source: &str) -> String {
    without_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// `{% generation %}` only marks text for training; here it becomes a block that is always taken, so that the
/// whitespace around it is trimmed all the same.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let end = rest[start..].find("%}").map_or(rest.len(), |length| start + length);
        let tag = &rest[start..end];
        let word = tag[2..].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&tag.replace(word, "if true")),
            "endgeneration" => out.push_str(&tag.replace(word, "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[derive(Default)]
struct BoundedOutput {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_full = self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES;
        if self.is_full {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
