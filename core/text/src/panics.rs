//! Panics that are caught and become errors.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Like `catch_unwind`, but the panic is not also printed: its text may hold a client's.
pub fn catch<T>(body: impl FnOnce() -> T) -> thread::Result<T> {
    hush_caught_panics();
    let outer = IS_CAUGHT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    IS_CAUGHT.set(outer);
    result
}

fn hush_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_CAUGHT.get() {
                previous(info);
            }
        }));
    });
}
