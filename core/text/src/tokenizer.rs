//! `tokenizer.json` as an immutable value that threads share.

use crate::config::{read_tokenizer_json, TextConfig};
use crate::error::{Code, Result, TextError};
use crate::panics::catch;
use std::collections::HashSet;
use std::path::Path;
use std::str::FromStr;
use tokenizers::{AddedToken, Decoder, DecoderWrapper, ModelWrapper};

/// Also kMaxTextBytes in text.h.
pub const MAX_TEXT_BYTES: usize = 8 << 20;

/// BERT and its descendants have 100.
const MAX_WORD_CHARS: usize = 200;

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special_ids: HashSet<u32>,
    /// One past the largest id.
    vocab_size: u32,
    decodes_byte_tokens: bool,
}

impl Tokenizer {
    pub fn load(folder: &Path, config: &TextConfig) -> Result<Self> {
        let text = read_tokenizer_json(folder)?;
        // The library panics on some malformed files.
        catch(|| Self::parse(&text, config)).unwrap_or_else(|_| Err(TextError::invalid("tokenizer.json: malformed")))
    }

    fn parse(text: &str, config: &TextConfig) -> Result<Self> {
        let malformed = |error: tokenizers::Error| TextError::invalid(format!("tokenizer.json: {error}"));
        let mut inner = tokenizers::Tokenizer::from_str(text).map_err(malformed)?;
        // These settings served training; here every text is encoded whole, and the same way every time.
        inner.with_padding(None).with_truncation(None).map_err(malformed)?;
        drop_dropout(&mut inner);
        check_cost(&inner)?;
        mark_special_tokens(&mut inner, config);
        let last = inner.get_vocab(true).into_values().max();
        let vocab_size = last.map_or(0, |id| id.saturating_add(1));
        if vocab_size > i32::MAX as u32 {
            return Err(TextError::invalid(format!("tokenizer.json: id {} is outside 0..2147483646", vocab_size - 1)));
        }
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let decodes_byte_tokens = inner.get_decoder().is_some_and(has_byte_fallback);
        Ok(Self { inner, special_ids, vocab_size, decodes_byte_tokens })
    }

    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|error| TextError::invalid(format!("text: this tokenizer cannot encode it: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn check_id(&self, id: i32) -> Result<u32> {
        match u32::try_from(id) {
            Ok(id) if id < self.vocab_size => Ok(id),
            _ => Err(TextError::invalid(format!("token id: {id} is outside 0..{}", self.vocab_size as i64 - 1))),
        }
    }

    /// Whether the id adds nothing to a text: a special token that is skipped, or a hole between the ids.
    pub fn is_silent(&self, id: u32, skip_special_tokens: bool) -> bool {
        (skip_special_tokens && self.special_ids.contains(&id)) || self.inner.id_to_token(id).is_none()
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let shown = |id: &&u32| !(skip_special_tokens && self.special_ids.contains(id));
        let tokens: Vec<String> = ids.iter().filter(shown).filter_map(|id| self.inner.id_to_token(*id)).collect();
        let Some(decoder) = self.inner.get_decoder() else {
            return Ok(tokens.join(" "));
        };
        let tokens = if self.decodes_byte_tokens { mend_byte_runs(tokens) } else { tokens };
        decoder.decode(tokens).map_err(|error| TextError::new(Code::Internal, format!("decode: {error}")))
    }
}

fn drop_dropout(inner: &mut tokenizers::Tokenizer) {
    if let ModelWrapper::BPE(model) = inner.get_model() {
        if model.dropout.is_some() {
            let mut model = model.clone();
            model.dropout = None;
            inner.with_model(model);
        }
    }
}

/// WordPiece's time grows with the cube of a word's length, up to this setting; every other model's is almost linear.
fn check_cost(inner: &tokenizers::Tokenizer) -> Result<()> {
    match inner.get_model() {
        ModelWrapper::WordPiece(model) if model.max_input_chars_per_word > MAX_WORD_CHARS => {
            Err(TextError::invalid(format!(
                "tokenizer.json: model.max_input_chars_per_word: {} is outside 0..{MAX_WORD_CHARS}",
                model.max_input_chars_per_word
            )))
        }
        _ => Ok(()),
    }
}

/// The config's special tokens count as special even where tokenizer.json lists them as ordinary ones, as in
/// transformers. A token without an id stays without.
fn mark_special_tokens(inner: &mut tokenizers::Tokenizer, config: &TextConfig) {
    let known = |text: &&str| !text.is_empty() && inner.token_to_id(text).is_some();
    let added = inner.get_added_tokens_decoder();
    let with_flags = |text: &str| {
        let found = added.values().find(|token| token.content == text).cloned();
        AddedToken { special: true, ..found.unwrap_or_else(|| AddedToken::from(text, true)) }
    };
    let is_marked = |text: &&str| added.values().any(|token| token.special && token.content == *text);
    let tokens: Vec<_> = config.special_texts().filter(known).filter(|text| !is_marked(text)).map(with_flags).collect();
    inner.add_special_tokens(&tokens);
}

fn has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(has_byte_fallback),
        _ => false,
    }
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// Puts U+FFFD for each broken part of a run of byte tokens. Left to itself, the library's decoder turns the whole run
/// into U+FFFD, so that a byte that comes late would change characters that were sent long before.
fn mend_byte_runs(tokens: Vec<String>) -> Vec<String> {
    let mut mended = Vec::with_capacity(tokens.len());
    let mut run = Vec::new();
    for token in tokens {
        match byte_of(&token) {
            Some(byte) => run.push(byte),
            None => {
                flush_byte_run(&mut run, &mut mended);
                mended.push(token);
            }
        }
    }
    flush_byte_run(&mut run, &mut mended);
    mended
}

fn flush_byte_run(run: &mut Vec<u8>, tokens: &mut Vec<String>) {
    for chunk in run.utf8_chunks() {
        tokens.extend(chunk.valid().bytes().map(|byte| format!("<0x{byte:02X}>")));
        if !chunk.invalid().is_empty() {
            tokens.push(char::REPLACEMENT_CHARACTER.to_string());
        }
    }
    run.clear();
}
