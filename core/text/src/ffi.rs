//! The functions of ffi.h, which says what each takes and returns.

use crate::chat::ChatTemplates;
use crate::chat_request::ChatRequest;
use crate::config::TextConfig;
use crate::error::{Code, Result, TextError};
use crate::panics::catch;
use crate::stream::DecodeStream;
use crate::tokenizer::{Tokenizer, MAX_TEXT_BYTES};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

pub struct AmTextTokenizer {
    tokenizer: Arc<Tokenizer>,
    templates: Arc<ChatTemplates>,
}

pub struct AmTextStream(DecodeStream);

/// A `Vec<T>` in C's hands.
#[repr(C)]
pub struct Buffer<T> {
    data: *mut T,
    size: usize,
    capacity: usize,
}

#[repr(C)]
pub struct AmTextFacts {
    vocab_size: i32,
    bos_id: i32,
    eos_id: i32,
    pad_id: i32,
    model_max_length: i32,
    has_chat_template: i32,
    chat_takes_tools: i32,
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(items: Vec<T>) -> Self {
        let mut items = ManuallyDrop::new(items);
        Self { data: items.as_mut_ptr(), size: items.len(), capacity: items.capacity() }
    }
}

impl<T> Buffer<T> {
    /// # Safety
    /// The buffer is zeroed, or came from a `Vec<T>` and is not used again.
    unsafe fn free(self) {
        if !self.data.is_null() {
            drop(unsafe { Vec::from_raw_parts(self.data, self.size, self.capacity) });
        }
    }
}

/// # Safety
/// `data` is null, or points to `size` items that live through the call.
unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if data.is_null() {
        return &[];
    }
    unsafe { std::slice::from_raw_parts(data, size) }
}

fn utf8<'a>(field: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|error| TextError::invalid(format!("{field}: invalid UTF-8 at byte {}", error.valid_up_to())))
}

/// Runs the body of an entry that can fail, and stores its result or its error.
///
/// # Safety
/// `out` and `error` point to values that may be overwritten.
unsafe fn entry<T>(out: *mut T, error: *mut Buffer<u8>, body: impl FnOnce() -> Result<T>) -> i32 {
    let panicked = || TextError::new(Code::Internal, "the text library failed on this input");
    match catch(body).unwrap_or_else(|_| Err(panicked())) {
        Ok(value) => {
            unsafe { out.write(value) };
            0
        }
        Err(failure) => {
            unsafe { error.write(failure.message.into_bytes().into()) };
            failure.code as i32
        }
    }
}

fn id_or_none(id: Option<u32>) -> i32 {
    id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1)
}

fn load(folder: &[u8]) -> Result<(AmTextTokenizer, AmTextFacts)> {
    let folder = Path::new(utf8("folder", folder)?);
    let config = TextConfig::load(folder)?;
    let tokenizer = Tokenizer::load(folder, &config)?;
    let templates = ChatTemplates::new(&config)?;
    let id = |name| id_or_none(config.special_token(name).and_then(|token| tokenizer.token_to_id(token)));
    let facts = AmTextFacts {
        vocab_size: tokenizer.vocab_size() as i32,
        bos_id: id("bos_token"),
        eos_id: id("eos_token"),
        pad_id: id("pad_token"),
        model_max_length: config.model_max_length,
        has_chat_template: (!templates.is_empty()).into(),
        chat_takes_tools: templates.takes_tools().into(),
    };
    Ok((AmTextTokenizer { tokenizer: Arc::new(tokenizer), templates: Arc::new(templates) }, facts))
}

fn encode(handle: &AmTextTokenizer, text: &[u8], add_special_tokens: bool) -> Result<Buffer<i32>> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(TextError::invalid(format!("text: {} bytes are more than {MAX_TEXT_BYTES}", text.len())));
    }
    let ids = handle.tokenizer.encode(utf8("text", text)?, add_special_tokens)?;
    Ok(ids.into_iter().map(|id| id as i32).collect::<Vec<_>>().into())
}

fn decode(handle: &AmTextTokenizer, ids: &[i32], skip_special_tokens: bool) -> Result<Buffer<u8>> {
    let ids = ids.iter().map(|id| handle.tokenizer.check_id(*id)).collect::<Result<Vec<_>>>()?;
    Ok(handle.tokenizer.decode(&ids, skip_special_tokens)?.into_bytes().into())
}

#[no_mangle]
pub unsafe extern "C" fn am_text_bytes_free(bytes: Buffer<u8>) {
    unsafe { bytes.free() }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_ids_free(ids: Buffer<i32>) {
    unsafe { ids.free() }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_tokenizer_load(
    folder: *const u8,
    folder_size: usize,
    tokenizer: *mut *mut AmTextTokenizer,
    facts: *mut AmTextFacts,
    error: *mut Buffer<u8>,
) -> i32 {
    unsafe {
        entry(tokenizer, error, || {
            let (handle, known) = load(slice(folder, folder_size))?;
            facts.write(known);
            Ok(Box::into_raw(Box::new(handle)))
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_tokenizer_free(tokenizer: *mut AmTextTokenizer) {
    let _ = catch(|| {
        if !tokenizer.is_null() {
            drop(unsafe { Box::from_raw(tokenizer) });
        }
    });
}

#[no_mangle]
pub unsafe extern "C" fn am_text_encode(
    tokenizer: &AmTextTokenizer,
    text: *const u8,
    text_size: usize,
    add_special_tokens: i32,
    ids: *mut Buffer<i32>,
    error: *mut Buffer<u8>,
) -> i32 {
    unsafe { entry(ids, error, || encode(tokenizer, slice(text, text_size), add_special_tokens != 0)) }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_decode(
    tokenizer: &AmTextTokenizer,
    ids: *const i32,
    ids_size: usize,
    skip_special_tokens: i32,
    text: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> i32 {
    unsafe { entry(text, error, || decode(tokenizer, slice(ids, ids_size), skip_special_tokens != 0)) }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_token_to_id(tokenizer: &AmTextTokenizer, token: *const u8, token_size: usize) -> i32 {
    let find = || tokenizer.tokenizer.token_to_id(std::str::from_utf8(unsafe { slice(token, token_size) }).ok()?);
    id_or_none(catch(find).unwrap_or(None))
}

#[no_mangle]
pub unsafe extern "C" fn am_text_render_chat(
    tokenizer: &AmTextTokenizer,
    messages: *const u8,
    messages_size: usize,
    tools: *const u8,
    tools_size: usize,
    extra: *const u8,
    extra_size: usize,
    add_generation_prompt: i32,
    prompt: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> i32 {
    unsafe {
        entry(prompt, error, || {
            let request = ChatRequest {
                messages: utf8("messages", slice(messages, messages_size))?,
                tools: utf8("tools", slice(tools, tools_size))?,
                extra: utf8("extra", slice(extra, extra_size))?,
                add_generation_prompt: add_generation_prompt != 0,
            };
            Ok(tokenizer.templates.render(&request)?.into_bytes().into())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_stream_new(
    tokenizer: &AmTextTokenizer,
    skip_special_tokens: i32,
) -> *mut AmTextStream {
    let new = || DecodeStream::new(tokenizer.tokenizer.clone(), skip_special_tokens != 0);
    catch(|| Box::into_raw(Box::new(AmTextStream(new())))).unwrap_or(std::ptr::null_mut())
}

#[no_mangle]
pub unsafe extern "C" fn am_text_stream_push(
    stream: &mut AmTextStream,
    id: i32,
    text: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> i32 {
    unsafe { entry(text, error, || Ok(stream.0.push(id)?.into_bytes().into())) }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_stream_flush(
    stream: &mut AmTextStream,
    text: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> i32 {
    unsafe { entry(text, error, || Ok(stream.0.flush()?.into_bytes().into())) }
}

#[no_mangle]
pub unsafe extern "C" fn am_text_stream_free(stream: *mut AmTextStream) {
    let _ = catch(|| {
        if !stream.is_null() {
            drop(unsafe { Box::from_raw(stream) });
        }
    });
}
