//! Tokenizers and chat templates of Hugging Face checkpoints, for the C++ face `text.h`.
//!
//! `ffi` is the only module with `extern "C"` entries; everything else is safe Rust, free of global state.

mod budget;
mod chat;
mod chat_request;
mod config;
mod error;
mod ffi;
mod panics;
mod python;
mod stream;
mod tokenizer;
