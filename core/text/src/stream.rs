//! Decoding token by token.
//!
//! A window of the last tokens is decoded anew for each token. What is returned is the part that no later token can
//! change: decoders only append, except that bytes of an unfinished character show as one U+FFFD at the end. So a
//! trailing U+FFFD is held back, and nothing else.

use crate::error::Result;
use crate::tokenizer::Tokenizer;
use std::sync::Arc;

/// Enough context for every decoder: what precedes decides about a leading space or a repeated token (one token) and
/// about a character's bytes (three tokens).
const MIN_WINDOW: usize = 8;
const SHRINK_AT: usize = 16;
/// Reached only where tokens have no text at all.
const MAX_WINDOW: usize = 256;

pub struct DecodeStream {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    window: Vec<u32>,
    /// How many bytes of the window's text were returned already.
    returned: usize,
}

impl DecodeStream {
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, window: Vec::with_capacity(SHRINK_AT), returned: 0 }
    }

    pub fn push(&mut self, id: i32) -> Result<String> {
        let id = self.tokenizer.check_id(id)?;
        if self.tokenizer.is_silent(id, self.skip_special_tokens) {
            return Ok(String::new());
        }
        self.window.push(id);
        let text = self.decode_last(self.window.len())?;
        let certain = text.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(&text).len();
        let fresh = text.get(self.returned..certain).unwrap_or_default().to_owned();
        self.returned += fresh.len();
        if self.window.len() >= SHRINK_AT {
            self.shrink(text.get(self.returned..).unwrap_or_default())?;
        }
        Ok(fresh)
    }

    pub fn flush(&mut self) -> Result<String> {
        let text = self.decode_last(self.window.len())?;
        let rest = text.get(self.returned..).unwrap_or_default().to_owned();
        self.window.clear();
        self.returned = 0;
        Ok(rest)
    }

    fn decode_last(&self, count: usize) -> Result<String> {
        self.tokenizer.decode(&self.window[self.window.len() - count..], self.skip_special_tokens)
    }

    /// Forgets the window's head, if what is left still ends in the text that is held back and begins with text that
    /// was returned (so that the next token is not taken for a first one).
    fn shrink(&mut self, held: &str) -> Result<()> {
        let mut keep = MIN_WINDOW;
        while keep < self.window.len() {
            let text = self.decode_last(keep)?;
            if text.len() > held.len() && text.ends_with(held) {
                self.keep_last(keep, text.len() - held.len());
                return Ok(());
            }
            keep *= 2;
        }
        if self.window.len() >= MAX_WINDOW {
            let text = self.decode_last(MIN_WINDOW)?;
            self.keep_last(MIN_WINDOW, text.len().saturating_sub(held.len()));
        }
        Ok(())
    }

    fn keep_last(&mut self, count: usize, returned: usize) {
        self.window.drain(..self.window.len() - count);
        self.returned = returned;
    }
}
